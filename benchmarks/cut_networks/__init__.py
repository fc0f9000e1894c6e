"""`ramify.cut` on networks that are trained here: convolutional networks, a ViT, a LLaMA."""
