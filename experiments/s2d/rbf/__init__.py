"""The toy RBF network of S2D, section 3 and Figure 1; see README.md."""
