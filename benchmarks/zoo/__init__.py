"""The zoo: models somebody else wrote, each traced, pruned, split, saved, loaded and exported."""
