"""The coupling of moments for each nonbonded method of OpenMM."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from openmm_les.electrostatics.build import GPU_CHUNK_ELEMENTS
from openmm_les.electrostatics.embedding.build import (
    EWALD_METHODS,
    needed_cell,
    pair_interaction,
    pairs_at_a_time,
)
from openmm_les.electrostatics.embedding.interactions import (
    Coulomb,
    Damping,
    ReactionField,
    Screened,
)
from openmm_les.electrostatics.embedding.moments.coupling import MomentCoupling
from openmm_les.electrostatics.embedding.moments.ewald import EwaldMoments
from openmm_les.electrostatics.embedding.pairs import ScaledPair


def build_moment_coupling(
    method: str,
    *,
    degree: int,
    cell: torch.Tensor | None,
    cutoff: float | None,
    dielectric: float,
    width: float,
    tolerance: float,
    images: bool,
    scaled_pairs: Sequence[ScaledPair],
    margin: float,
    dtype: torch.dtype,
    device: str | torch.device,
    mm_widths: Sequence[float],
) -> MomentCoupling:
    """As `build_coupling`, for moments up to a degree, induced ones included, still on the CPU.

    With `mm_widths`, one for each MM charge [A], moments are induced as if these were clouds too.
    """
    on_gpu = torch.device(device).type != "cpu"
    degree, pairs_per_chunk = max(1, degree), pairs_at_a_time(device)
    coulomb, ewald = Coulomb(width), None
    if method in EWALD_METHODS:
        interaction: Coulomb | ReactionField | Screened = Screened(width)
        ewald = EwaldMoments(
            needed_cell(method, cell),
            tolerance=tolerance,
            images=images,
            margin=margin,
            degree=degree,
            dtype=dtype,
            pairs_per_chunk=pairs_per_chunk,
            chunk_elements=GPU_CHUNK_ELEMENTS if on_gpu else None,
        )
    else:
        interaction = pair_interaction(method, cutoff, dielectric, width)
    return MomentCoupling(
        interaction,
        coulomb,
        degree=degree,
        periodic=ewald is not None or method == "CutoffPeriodic",
        ewald=ewald,
        scaled_pairs=scaled_pairs,
        dtype=dtype,
        pairs_per_chunk=pairs_per_chunk,
        damping=Damping(width) if len(mm_widths) else None,
        mm_scales=(width**2 + torch.tensor(mm_widths, dtype=torch.float64) ** 2) ** -0.5,
    )
