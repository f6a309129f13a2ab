"""CACE with latent charges."""
