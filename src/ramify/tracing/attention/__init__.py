"""Products of two activations, as in attention: who makes their factors, and their scale."""
