"""MACE with latent charges."""
