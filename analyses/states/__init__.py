"""What the hidden states say, layer by layer."""
