"""DGCNN on parametric shapes: results and the commands that gave them."""
