"""The effect of splitting on the filters of a trained network, S3D Figure 4."""
