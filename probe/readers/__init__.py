"""Readers of what trainers and trackers write: responses and scalars."""
