"""NequIP and Allegro with latent charges."""
