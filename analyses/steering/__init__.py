"""The model pushed, against placebos."""
