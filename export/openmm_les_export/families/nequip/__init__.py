"""NequIP and Allegro with LES: reader, accepted options, reference."""
