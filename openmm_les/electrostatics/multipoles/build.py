"""From the parameters of a model and a system to the sum of its multipoles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.accuracy import EwaldOptions
from openmm_les.electrostatics.build import (
    GPU_CHUNK_ELEMENTS,
    build_electrostatics,
    reciprocal_kernel,
)
from openmm_les.electrostatics.direct import DirectEwald
from openmm_les.electrostatics.mesh import MeshEwald, mesh_size_for
from openmm_les.electrostatics.multipoles.dense import DenseMultipoles
from openmm_les.electrostatics.multipoles.direct import DirectMultipoles
from openmm_les.electrostatics.multipoles.mesh import MeshMultipoles
from openmm_les.electrostatics.multipoles.pairs import ARRAYS_OF_A_PAIR, PairMultipoles
from openmm_les.electrostatics.multipoles.sum import MultipoleSum
from openmm_les.electrostatics.pairs import PairSum

#: How much closer the points of a mesh are than for charges, for dipoles and quadrupoles.
_FINER = 0.85


def build_multipoles(
    les: Mapping[str, Any],
    periodic: bool,
    cell: Tensor | None,
    dtype: torch.dtype,
    *,
    degree: int,
    induced_degree: int,
    num_atoms: int,
    options: EwaldOptions | None = None,
    margin: float = 1.0,
    device: str | torch.device = "cpu",
) -> MultipoleSum:
    """The sum for a system, still on the CPU.

    It is of the kind that `build_electrostatics` takes for charges: all kinds cost about the same
    factor more. What a mesh needs to keep the tolerance for every moment, by measurement, is a
    window with a flat edge and one point more for each degree, and a finer spacing.

    Args:
        les, periodic, cell, dtype, num_atoms, options, margin, device: see `build_electrostatics`.
        degree, induced_degree: see `MultipoleSum`.
    """
    highest = max(degree, induced_degree)
    charges = build_electrostatics(
        les,
        periodic,
        cell,
        dtype,
        num_atoms=num_atoms,
        options=options,
        margin=margin,
        device=device,
        finer=_FINER if highest > 0 else 1.0,
    )
    interaction: nn.Module
    if isinstance(charges, PairSum):
        on_gpu = torch.device(device).type != "cpu"
        elements = GPU_CHUNK_ELEMENTS // ARRAYS_OF_A_PAIR if on_gpu else None
        interaction = PairMultipoles(
            sigma=float(les["sigma"]),
            prefactor=float(les["prefactor"]),
            degree=highest,
            dtype=dtype,
            chunk_size=elements and max(1, elements // num_atoms),
        )
        self_energy = charges.self_energy
    else:
        assert cell is not None
        interaction = _periodic(charges, highest, cell, margin)
        self_energy = charges.kernel.self_energy
    return MultipoleSum(
        interaction,
        sigma=float(les["sigma"]),
        self_energy=self_energy,
        degree=degree,
        induced_degree=induced_degree,
        periodic=periodic,
        dtype=dtype,
    )


def dense_multipoles(les: Mapping[str, Any], *, degree: int, induced_degree: int) -> MultipoleSum:
    """The sum for periodic systems in any box, in float64; see `DenseMultipoles`.

    The arguments are those of `build_multipoles`.
    """
    kernel = reciprocal_kernel(les)
    return MultipoleSum(
        DenseMultipoles(kernel),
        sigma=float(les["sigma"]),
        self_energy=kernel.self_energy,
        degree=degree,
        induced_degree=induced_degree,
        periodic=True,
        dtype=torch.float64,
    )


def _periodic(
    charges: DirectEwald | MeshEwald, highest: int, cell: Tensor, margin: float
) -> DirectMultipoles | MeshMultipoles:
    """The counterpart of a sum of charges, with arrays no larger."""
    if isinstance(charges, DirectEwald):
        structure = charges.structure
        return DirectMultipoles(
            structure.limits.tolist(),
            charges.kernel,
            dtype=charges.dtype,
            chunk_size=structure.chunk_size,
        )
    order = charges.order + highest
    return MeshMultipoles(
        mesh_size_for(cell, charges.spacing, margin),
        charges.kernel,
        order=order,
        spacing=charges.spacing,
        dtype=charges.dtype,
        flat_edge=highest > 0,
        chunk_size=max(1, charges.chunk_size * charges.order**3 // order**3),
    )
