"""Experiments: one folder per question, run from a checkout and never installed."""
