"""What is kept on disk: models, checkpoints, random states; written whole or not at all."""
