"""What training changed inside: what was forgotten for it, directions, features."""
