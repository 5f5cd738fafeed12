"""What a call with a text gives back: values with their tokens, a table in a terminal, a picture in a notebook."""
