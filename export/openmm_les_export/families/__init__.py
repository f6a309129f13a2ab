"""Families of models: how each is read, and what it is compared with."""
