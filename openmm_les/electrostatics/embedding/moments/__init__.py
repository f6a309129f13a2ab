"""Dipoles and quadrupoles of an ML region among MM charges."""

from openmm_les.electrostatics.embedding.moments.build import build_moment_coupling
from openmm_les.electrostatics.embedding.moments.coupling import MomentCoupling
from openmm_les.electrostatics.embedding.moments.embedded import EmbeddedMoments

__all__ = ["EmbeddedMoments", "MomentCoupling", "build_moment_coupling"]
