"""Speed and memory compared with the obvious alternatives, as ratios within one run."""
