"""Neighbour lists of static shape."""
