"""The prototype network of S2D, Figure 2: its prototypes and their family tree."""
