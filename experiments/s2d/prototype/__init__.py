"""The prototype network of S2D, Figure 2: what it learns, and its family tree."""
