"""Which sign the latent charges of a model have.

The LES energy is quadratic in them, so it is arbitrary after training. It is determined once, from
a small hydride, and stored for what couples to the charges (ML/MM, dipoles, reporters).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from openmm_les.arrays import FloatArray

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact

logger = logging.getLogger(__name__)

#: Positions [A] of the hydrogens of an element at the origin.
_HYDRIDES = {
    8: [(0.759, 0.0, 0.588), (-0.759, 0.0, 0.588)],
    7: [(0.936, 0.0, 0.380), (-0.468, 0.811, 0.380), (-0.468, -0.811, 0.380)],
    9: [(0.0, 0.0, 0.92)],
    17: [(0.0, 0.0, 1.27)],
    35: [(0.0, 0.0, 1.41)],
}
#: Smallest difference of charges [e] that determines the sign.
_SMALLEST_DIFFERENCE = 0.02


def charge_sign(artifact: Artifact) -> int | None:
    """1 if electronegative atoms have negative latent charges, -1 if positive, else None.

    Several charges for each atom are not physical, and have no sign. Latent dipoles have that of
    the charges: with them it is the dipole of the molecule that decides.
    """
    from openmm_les.evaluation.system_model import SystemModel
    from openmm_les.networks.conditions import neutral_conditions

    heavy = next((z for z in _HYDRIDES if z in artifact.elements), None)
    if heavy is None or 1 not in artifact.elements or artifact.channels > 1:
        return None
    positions = [(0.0, 0.0, 0.0), *_HYDRIDES[heavy]]
    numbers = [heavy] + [1] * (len(positions) - 1)
    neutral = neutral_conditions(artifact.canonical.hyper)
    model = SystemModel(artifact, numbers, periodic=False, precision="double", features=neutral)
    result = model.evaluate(positions)
    difference = float(result.charges[1:].mean() - result.charges[0])
    dipoles = None if result.moments is None else result.moments.total_dipoles
    if dipoles is not None:
        difference += _as_difference(dipoles.sum(axis=0), np.array(_HYDRIDES[heavy]))
    if abs(difference) < _SMALLEST_DIFFERENCE:
        logger.warning(
            "the sign of the latent charges is not clear: hydrogen has %+.4f e more than element "
            "%d in its hydride",
            difference,
            heavy,
        )
        return None
    return 1 if difference > 0 else -1


def _as_difference(dipole: FloatArray, hydrogens: FloatArray) -> float:
    """The difference of charges [e] at which a neutral hydride has a dipole [e A]."""
    centre, number = hydrogens.mean(axis=0), len(hydrogens)
    return (number + 1) / number * float(dipole @ centre / (centre @ centre))
