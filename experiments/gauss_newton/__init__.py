"""The experiments of "Learning morphisms with Gauss-Newton approximation for growing networks"."""
