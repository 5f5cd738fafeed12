"""Why entropy moves in reinforcement learning."""
