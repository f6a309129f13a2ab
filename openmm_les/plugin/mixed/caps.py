"""Link atoms without particles of their own: where they are, and where their forces go.

A link atom sits on the bond from L1 to M1, at a fixed distance d from L1:
R = r_L1 + d e with e = (r_M1 - r_L1) / r. What acts on it acts on both ends of the bond,
with C = d / r: F_M1 = C (F - (F.e) e), and the rest on L1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_les.arrays import FloatArray
from openmm_les.plugin.mixed.images import nearest


@dataclass(frozen=True)
class PlacedCaps:
    """Link atoms of one structure.

    Attributes:
        positions: shape (n, 3), in the unit of the positions given.
        directions: unit vectors from L1 to M1, shape (n, 3).
        ratios: distance of the link atom over the length of the bond, shape (n,).
    """

    positions: FloatArray
    directions: FloatArray
    ratios: FloatArray

    def spread(self, forces: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Forces on L1 and M1 that do the work of forces on the link atoms, shape (n, 3) each."""
        along = (forces * self.directions).sum(axis=1, keepdims=True) * self.directions
        on_mm = self.ratios[:, None] * (forces - along)
        return forces - on_mm, on_mm


def place(
    ml_ends: FloatArray, mm_ends: FloatArray, distances: FloatArray, cell: FloatArray | None
) -> PlacedCaps:
    """Put a link atom on every cut bond.

    Args:
        ml_ends: positions of the atoms L1, shape (n, 3).
        mm_ends: positions of the atoms M1, shape (n, 3); any periodic image.
        distances: from L1 to the link atom, shape (n,).
        cell: lattice vectors in rows, in OpenMM's reduced form; None when not periodic.
    """
    bonds = nearest(mm_ends - ml_ends, cell)
    lengths = np.linalg.norm(bonds, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN positions are told by the model
        directions = bonds / lengths[:, None]
        ratios = distances / lengths
    return PlacedCaps(ml_ends + distances[:, None] * directions, directions, ratios)
