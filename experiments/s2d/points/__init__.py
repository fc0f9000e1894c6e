"""DGCNN on parametric shapes: results and their commands."""
