"""Splitting steepest descent (Liu, Wu, Wang 2019)."""
