"""What is read off a model and a text: readouts, scored tokens, kept responses, grades."""
