"""What `ramify.cut` keeps of a trained network, right after the cut and tuned, beside its peers."""
