"""What splitting does to the filters of a trained network, S3D Figure 4."""
