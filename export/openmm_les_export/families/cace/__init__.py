"""CACE with LES: reader, accepted options, reference."""
