"""Which sign the latent charges of a model have.

The LES energy is quadratic in them, so it is arbitrary after training. It is determined once, from
a small hydride, and stored for what couples to the charges (ML/MM, dipoles, reporters).
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact

logger = logging.getLogger(__name__)

#: Element: bond length to hydrogen [A], number of hydrogens, H-X-H angle [degrees].
_HYDRIDES = {
    8: (0.96, 2, 104.5),
    7: (1.01, 3, 106.7),
    9: (0.92, 1, 0.0),
    17: (1.27, 1, 0.0),
    35: (1.41, 1, 0.0),
}
#: Smallest difference of charges [e] that determines the sign.
_SMALLEST_DIFFERENCE = 0.02


def charge_sign(artifact: Artifact) -> int | None:
    """1 if electronegative atoms have negative latent charges, -1 if positive, else None."""
    from openmm_les.evaluation.system_model import SystemModel
    from openmm_les.networks.conditions import neutral_conditions

    heavy = next((z for z in _HYDRIDES if z in artifact.elements), None)
    if heavy is None or 1 not in artifact.elements:
        return None
    positions = [[0.0, 0.0, 0.0], *_hydrogens(heavy)]
    numbers = [heavy] + [1] * (len(positions) - 1)
    neutral = neutral_conditions(artifact.canonical.hyper)
    model = SystemModel(artifact, numbers, periodic=False, precision="double", features=neutral)
    charges = model.evaluate(positions).charges
    difference = float(charges[1:].mean() - charges[0])
    if abs(difference) < _SMALLEST_DIFFERENCE:
        logger.warning(
            "the sign of the latent charges is not clear: hydrogen has %+.4f e more than element "
            "%d in its hydride",
            difference,
            heavy,
        )
        return None
    return 1 if difference > 0 else -1


def _hydrogens(heavy: int) -> list[list[float]]:
    """Hydrogens on a cone around z, with the right bond length and mutual angle."""
    bond, count, angle = _HYDRIDES[heavy]
    if count == 1:
        return [[0.0, 0.0, bond]]
    # Chord between neighbouring hydrogens: 2 sin(angle / 2) = 2 sin(cone) sin(pi / count).
    sine = math.sin(math.radians(angle) / 2) / math.sin(math.pi / count)
    height = math.sqrt(1 - sine * sine)
    turns = [2 * math.pi * i / count for i in range(count)]
    return [[bond * sine * math.cos(t), bond * sine * math.sin(t), bond * height] for t in turns]
