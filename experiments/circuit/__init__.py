"""From two checkpoints to a verdict: which parts cause what tuning changed."""
