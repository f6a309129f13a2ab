"""Electrostatic embedding: latent charges of an ML region in the field of MM charges.

`build_coupling` makes the module that fits OpenMM's nonbonded method. Like the kernels of
`openmm_les.electrostatics` these have static shapes and never synchronise with the host; they
return a `Coupling`. `Surroundings.embed` joins it with the model's own electrostatics.
"""

from openmm_les.electrostatics.embedding.build import METHODS, build_coupling
from openmm_les.electrostatics.embedding.charges import charge_factor
from openmm_les.electrostatics.embedding.pairs import Coupling, ScaledPair
from openmm_les.electrostatics.embedding.surroundings import Surroundings

__all__ = ["METHODS", "Coupling", "ScaledPair", "Surroundings", "build_coupling", "charge_factor"]
