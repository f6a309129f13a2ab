"""The coupling for each nonbonded method of OpenMM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from openmm_les.electrostatics.build import GPU_CHUNK_ELEMENTS
from openmm_les.electrostatics.embedding.ewald import EwaldCoupling
from openmm_les.electrostatics.embedding.interactions import Coulomb, ReactionField
from openmm_les.electrostatics.embedding.pairs import PAIRS_PER_CHUNK, ScaledPair
from openmm_les.electrostatics.embedding.pairwise import PairCoupling
from openmm_les.errors import InputError

EWALD_METHODS = ("Ewald", "PME", "LJPME")
CUTOFF_METHODS = ("CutoffNonPeriodic", "CutoffPeriodic")
METHODS = ("NoCutoff", *CUTOFF_METHODS, *EWALD_METHODS)

#: Few and large kernels on a GPU: some 100 MB of separations.
_PAIRS_ON_GPU = 2**22


def build_coupling(
    method: str,
    *,
    cell: torch.Tensor | None = None,
    cutoff: float | None = None,
    dielectric: float = 78.3,
    width: float = 0.0,
    tolerance: float = 1e-5,
    images: bool = True,
    scaled_pairs: Sequence[ScaledPair] = (),
    margin: float = 1.04,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
) -> EwaldCoupling | PairCoupling:
    """The coupling for the nonbonded method of the MM force field, still on the CPU.

    The arguments that are not listed are those of `EwaldCoupling`; of these, other methods use the
    precision and the scaled pairs alone.

    Args:
        method: a name of OpenMM's methods, one of `METHODS`.
        cell: lattice vectors in rows [A], shape [3, 3]; for Ewald methods.
        cutoff, dielectric: of OpenMM's NonbondedForce [A] and its reaction field; for cutoffs.
        width: sigma of the ML charges [A], 0 for point charges.
        device: where the module will run.
    """
    on_gpu = torch.device(device).type != "cpu"
    sums: dict[str, Any] = {
        "scaled_pairs": scaled_pairs,
        "dtype": dtype,
        "pairs_per_chunk": pairs_at_a_time(device),
    }
    if method not in EWALD_METHODS:
        interaction = pair_interaction(method, cutoff, dielectric, width)
        return PairCoupling(interaction, periodic=method == "CutoffPeriodic", **sums)
    coupling = EwaldCoupling(
        needed_cell(method, cell),
        width=width,
        tolerance=tolerance,
        images=images,
        margin=margin,
        **sums,
    )
    if on_gpu:
        structure = coupling.structure
        plane = 8 * structure.size0 * structure.size1
        structure.chunk_size = max(1, GPU_CHUNK_ELEMENTS // plane)
    return coupling


def pairs_at_a_time(device: str | torch.device) -> int:
    """How many pairs of charges a chunk has where a module will run."""
    return PAIRS_PER_CHUNK if torch.device(device).type == "cpu" else _PAIRS_ON_GPU


def pair_interaction(
    method: str, cutoff: float | None, dielectric: float, width: float
) -> Coulomb | ReactionField:
    """The interaction of a method without Ewald sum; see `build_coupling`."""
    if method not in METHODS:
        choices = ", ".join(METHODS)
        raise InputError(f"nonbonded method: expected one of {choices}, got {method!r}")
    if method not in CUTOFF_METHODS:
        return Coulomb(width)
    if cutoff is None:
        raise InputError(f"cutoff: expected that of the NonbondedForce [A] for {method}")
    return ReactionField(cutoff, dielectric, width)


def needed_cell(method: str, cell: torch.Tensor | None) -> torch.Tensor:
    if cell is None:
        raise InputError(f"cell: expected three lattice vectors [A] for {method}, got None")
    return cell
