"""Whether a model can describe a system, and what its user should know about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.electrostatics import EwaldOptions, build_electrostatics
from openmm_les.electrostatics.cell import lies_on_cutoff
from openmm_les.errors import InputError
from openmm_les.names import shorten

logger = logging.getLogger(__name__)

#: Edges of boxes for which `warn_of_edges` has warned.
_warned_edges: set[tuple[float, ...]] = set()
#: The warning suggests edges that are longer by this factor.
_LONGER = 1.002


def check_elements(artifact: Artifact, numbers: Sequence[int]) -> None:
    """Refuse atoms that the model was not trained for, or no atoms at all."""
    if not numbers:
        raise InputError("atoms: expected at least one atom, got an empty list")
    unknown = set(numbers) - set(artifact.elements)
    if not unknown:
        return
    atoms = [i for i, z in enumerate(numbers) if z in unknown]
    raise InputError(
        f"atoms: the model knows {_symbols(artifact.elements)}, but the structure has "
        f"{_symbols(sorted(unknown))} (atoms {shorten(atoms)})"
    )


def check_sign(artifact: Artifact) -> None:
    """Refuse an electric field for a model that does not state the sign of its charges."""
    if artifact.metadata["charge_sign"] is None:
        raise InputError(
            f"electricField: {artifact.path} does not state the sign of its latent charges "
            "(charge_sign), so that the direction of the forces would be unknown"
        )


def warn_of_edges(cell: FloatArray, dl: float) -> None:
    """Warn, once for each box, where the hard cutoff makes energies jump as edges change."""
    edges = tuple(float(edge) for edge in np.linalg.norm(cell, axis=1))
    if edges in _warned_edges or not lies_on_cutoff(torch.from_numpy(cell), dl):
        return
    _warned_edges.add(edges)
    logger.warning(
        "the edges of the box (%s A) put reciprocal vectors on the cutoff of the model (dl = %g "
        "A): this has no effect at constant volume, but pressures from differences of energies are "
        "wrong; for barostats, variable cells and equations of state start from other edges, such "
        "as %.3f A in place of %.3f A",
        ", ".join(f"{edge:.3f}" for edge in edges),
        dl,
        _LONGER * edges[0],
        edges[0],
    )


def warn_of_smooth_cutoff(
    artifact: Artifact, charges: FloatArray, positions: FloatArray, cell: FloatArray
) -> None:
    """Tell how much the smooth cutoff, with which no model was trained, changes the energy."""
    structure = [torch.tensor(array) for array in (charges, positions, cell)]

    def energy(cutoff: str) -> float:
        ewald = build_electrostatics(
            artifact.canonical.les,
            True,
            structure[2],
            torch.float64,
            num_atoms=len(charges),
            options=EwaldOptions("direct", cutoff=cutoff),
        )
        return float(ewald(*structure)[0])

    difference = energy("smooth") - energy("hard")
    logger.warning(
        "lesCutoff='smooth' changes the energy of this structure by %+.6f eV (%+.3f meV per "
        "atom) against the model as it was trained",
        difference,
        1e3 * difference / len(charges),
    )


def _symbols(numbers: Sequence[int]) -> str:
    from openmm.app import Element

    def symbol(z: int) -> str:
        try:
            return str(Element.getByAtomicNumber(z).symbol)
        except KeyError:
            return f"atomic number {z}"

    return ", ".join(map(symbol, numbers))
