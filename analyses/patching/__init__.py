"""Activations of one run put into another."""
