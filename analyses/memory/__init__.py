"""Is it recall? Perplexity and its paradox, membership, partial prompts, over-memorization."""
