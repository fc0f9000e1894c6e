"""Products of two activations, as in attention: which rows make a factor, and what scales it."""
