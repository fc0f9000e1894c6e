"""The toy RBF network of S3D, section 4.1 and Figure 2; see README.md."""
