"""The zoo: third-party models, each traced, pruned, split, saved, loaded and exported."""
