"""Cross patching: identities between checkpoints, planted differences told apart, and nulls."""
