"""What training did to the weights."""
