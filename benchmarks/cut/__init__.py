"""`ramify.cut` and Torch-Pruning on a trained network, right after the cut and fine-tuned."""
