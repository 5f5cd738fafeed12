"""The lab: a tiny post-training run with known truth (`python -m experiments.lab --seed 0`)."""
