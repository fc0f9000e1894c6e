"""A finite displacement of every channel at once, carried along the network."""
