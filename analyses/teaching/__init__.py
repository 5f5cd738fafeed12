"""What one text tells a model about another: two contexts, or two models, and one text."""
