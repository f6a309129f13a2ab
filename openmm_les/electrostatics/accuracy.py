"""Which periodic sum, and how fine a mesh, an accuracy asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from openmm_les.errors import InputError


@dataclass(frozen=True)
class MeshRule:
    """A mesh that is accurate enough."""

    tolerance: float  #: RMS force error over RMS force that it stays below.
    order: int  #: points that the window covers along each axis.
    spacing: float  #: largest mesh spacing, in units of dl.


#: ``benchmarks/ewald_accuracy.py`` measures what these rest on, with needle-shaped and tiny cells,
#: liquids, a net charge and uncorrelated ions. Where one line suffices no finer one is taken.
RULES = (
    MeshRule(1e-3, 6, 0.33),
    MeshRule(1e-4, 7, 0.34),
    MeshRule(1e-5, 8, 0.33),
    MeshRule(1e-6, 9, 0.30),
    MeshRule(1e-7, 10, 0.28),
)

#: Rounding in single precision spoils more than this.
SINGLE_PRECISION_TOLERANCE = 1e-5

#: What the sums take at their peak, by measurement, for each integer of the direct sum's octant and
#: for each point of a mesh [bytes].
_DIRECT_BYTES = 750
_MESH_BYTES = {torch.float32: 55, torch.float64: 77}
#: The most that a sum may take: for an empty box, and for each atom. Liquids and solids need half
#: of the latter on a mesh.
_BYTES = 2**31
_BYTES_FOR_ATOM = 2**12


@dataclass(frozen=True)
class EwaldOptions:
    """How the periodic sum is computed; `EvaluationOptions` checks what users give."""

    #: ``'direct'`` (exact), ``'mesh'`` (large systems), or ``'auto'``: the direct sum in double
    #: precision and wherever it is not slower, else the mesh.
    method: str = "auto"
    tolerance: float = 1e-5  #: RMS force error over RMS force that the mesh may have.
    #: ``'hard'``, as models are trained, or ``'smooth'``, an energy that is smooth in the box but
    #: another one.
    cutoff: str = "hard"


def wants_exact(options: EwaldOptions, dtype: torch.dtype) -> bool:
    """Whether ``method='auto'`` means the direct sum, however large the system.

    In double precision a mesh would promise digits that its window does not have, and in single
    precision no mesh reaches a tolerance below rounding.
    """
    return dtype == torch.float64 or options.tolerance < SINGLE_PRECISION_TOLERANCE


def find_rule(tolerance: float, dtype: torch.dtype) -> MeshRule:
    """The cheapest mesh for a tolerance; refused where rounding in `dtype` alone exceeds that."""
    if dtype == torch.float32 and tolerance < SINGLE_PRECISION_TOLERANCE:
        raise InputError(
            f"ewaldTolerance: single precision reaches {SINGLE_PRECISION_TOLERANCE:g} on a mesh, "
            f"got {tolerance:g}; use precision='double', or ewald='direct'"
        )
    # Compared in decades, so that 1e-5 given as 0.00001 finds its line.
    return next(r for r in RULES if math.log10(r.tolerance) <= math.log10(tolerance) + 1e-9)


def mesh_is_faster(num_atoms: int, vectors: Sequence[int], mesh: Sequence[int], order: int) -> bool:
    """Whether the mesh sum is expected to take less time than the direct one.

    Both times have a part for each atom and one for each point of reciprocal space (`vectors` are
    the sizes of the direct sum's octant); the weights [ns] were fitted to single-precision runs on
    one CPU thread (22 to 12 288 atoms, boxes of 10 to 50 A). The direct sum is exact, so it only
    has to be about as fast.
    """
    octant, points = math.prod(vectors), math.prod(mesh)
    direct = num_atoms * octant * 1.3 + octant * 320.0
    meshed = num_atoms * order**3 * 12.0 + points * 45.0
    return meshed < direct


def bytes_of_direct(vectors: Sequence[int]) -> int:
    """Memory of the direct sum, from the sizes of its octant along the axes."""
    return _DIRECT_BYTES * math.prod(vectors)


def bytes_of_mesh(mesh: Sequence[int], dtype: torch.dtype) -> int:
    """Memory of the mesh sum, from its points along the axes."""
    return _MESH_BYTES[dtype] * math.prod(mesh)


def is_affordable(memory: int, num_atoms: int) -> bool:
    """Whether a sum may take so many bytes: a box must not be much larger than what is in it."""
    return memory <= _BYTES + _BYTES_FOR_ATOM * num_atoms
