"""The energy of latent multipoles that respond to their own field, periodic or not."""
