"""Replica exchange of temperatures or lambda, with OpenMM's own sampler."""
