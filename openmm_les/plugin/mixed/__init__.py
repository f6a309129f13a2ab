"""Hybrid systems: part of a System described by a model, the rest by a force field (ML/MM)."""

from openmm_les.plugin.mixed.create import create_mixed_system
from openmm_les.plugin.mixed.embeddings.electrostatic import ElectrostaticOptions
from openmm_les.plugin.mixed.options import MixedOptions, read_options

__all__ = ["ElectrostaticOptions", "MixedOptions", "create_mixed_system", "read_options"]
