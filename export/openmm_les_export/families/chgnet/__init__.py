"""CHGNet with LES: reader, accepted options, reference."""
