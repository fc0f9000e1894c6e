"""Speed and memory against the obvious alternatives, as ratios within one run."""
