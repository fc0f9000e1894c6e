"""Training: the epoch, and the loops that grow, shrink and search networks while they train."""
