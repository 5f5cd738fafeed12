"""A study: from the folders of runs to what they answer, every checkpoint read once."""
