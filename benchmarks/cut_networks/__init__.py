"""What `ramify.cut` keeps of networks that are trained here: convolutional ones, a ViT, a LLaMA."""
