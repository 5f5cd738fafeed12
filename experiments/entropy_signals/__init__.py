"""Which signal explains what an update did to entropy? The lab's GRPO windows, three seeds."""
