"""MACE with LES: reader, accepted options, reference."""
