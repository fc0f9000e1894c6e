"""The effect of an edit on training, with and without carrying the optimizer state along."""
