"""The long-range LES energy of latent charges: interchangeable kernels.

`DirectEwald` (exact) and `MeshEwald` (large systems) serve periodic systems, `PairSum` systems that
are not periodic. All are plain modules without learnt parameters that script, hold to static shapes
and never synchronise with the host. Given charges, positions and cell they return the energy and
all its first derivatives.
"""

from openmm_les.electrostatics.accuracy import EwaldOptions
from openmm_les.electrostatics.build import build_electrostatics
from openmm_les.electrostatics.direct import DirectEwald, k_limits_for
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.mesh import MeshEwald, mesh_size_for
from openmm_les.electrostatics.pairs import PairSum

__all__ = [
    "DirectEwald",
    "EwaldOptions",
    "MeshEwald",
    "PairSum",
    "ReciprocalKernel",
    "build_electrostatics",
    "k_limits_for",
    "mesh_size_for",
]
