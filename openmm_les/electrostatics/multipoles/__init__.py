"""The energy of latent charges, dipoles and quadrupoles that respond to their own field.

`MultipoleSum` is the counterpart of the kernels of `openmm_les.electrostatics`, over one of three
interactions: `DirectMultipoles` (exact) and `MeshMultipoles` (large systems) for periodic systems,
`PairMultipoles` for those that are not. All script, hold to static shapes and never synchronise
with the host.
"""

from openmm_les.electrostatics.multipoles.build import build_multipoles
from openmm_les.electrostatics.multipoles.direct import DirectMultipoles
from openmm_les.electrostatics.multipoles.latents import (
    INDUCED_ROWS,
    LatentLayout,
    LatentMultipoles,
    dense_latent_multipoles,
    electrostatics_for,
    latent_layout,
    latent_multipoles,
    site_moments,
)
from openmm_les.electrostatics.multipoles.mesh import MeshMultipoles
from openmm_les.electrostatics.multipoles.moments import SiteMoments
from openmm_les.electrostatics.multipoles.pairs import PairMultipoles
from openmm_les.electrostatics.multipoles.sum import MultipoleSum
from openmm_les.electrostatics.multipoles.terms import MultipoleTerms

__all__ = [
    "INDUCED_ROWS",
    "DirectMultipoles",
    "LatentLayout",
    "LatentMultipoles",
    "MeshMultipoles",
    "MultipoleSum",
    "MultipoleTerms",
    "PairMultipoles",
    "SiteMoments",
    "build_multipoles",
    "dense_latent_multipoles",
    "electrostatics_for",
    "latent_layout",
    "latent_multipoles",
    "site_moments",
]
