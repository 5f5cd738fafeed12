"""Where a log of reinforcement learning puts its learning signal."""
