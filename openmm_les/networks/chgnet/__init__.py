"""CHGNet with latent charges."""
