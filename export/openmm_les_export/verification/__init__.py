"""Comparison of what was exported with the original model."""
