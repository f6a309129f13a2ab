"""Electrostatic embedding: latent charges of an ML region in the field of MM charges.

`build_coupling` makes the module that fits OpenMM's nonbonded method: `EwaldCoupling` for the Ewald
methods, `PairCoupling` for the others. Like the kernels of `openmm_les.electrostatics` they are
modules without learnt parameters that script, have static shapes and never synchronise with the
host. Given charges, positions and cell they return a `Coupling`: the energy and all its
first derivatives. `Surroundings.embed` joins it with the model's own electrostatics.
"""

from openmm_les.electrostatics.embedding.build import METHODS, build_coupling
from openmm_les.electrostatics.embedding.charges import charge_factor
from openmm_les.electrostatics.embedding.embedded import Surroundings
from openmm_les.electrostatics.embedding.pairs import Coupling, ScaledPair

__all__ = ["METHODS", "Coupling", "ScaledPair", "Surroundings", "build_coupling", "charge_factor"]
