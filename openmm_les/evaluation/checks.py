"""Whether a model can describe a system, and what its user should know about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.electrostatics import EwaldOptions
from openmm_les.electrostatics.cell import cutoff_wavenumber, largest_indices, lies_on_cutoff
from openmm_les.electrostatics.multipoles import electrostatics_for
from openmm_les.errors import InputError
from openmm_les.names import shorten

logger = logging.getLogger(__name__)

#: Edges of boxes for which `warn_of_edges` has warned.
_warned_edges: set[tuple[float, ...]] = set()
#: Artifacts and what was said of them once.
_warned_models: set[tuple[Path, str]] = set()
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


def check_single_charge(artifact: Artifact, what: str) -> None:
    """Refuse what needs the physical charges of atoms for a model with several latent ones each."""
    if artifact.channels > 1:
        raise InputError(
            f"{what}: expected a model with one latent charge for each atom, got {artifact.path}, "
            f"with {artifact.channels}, whose energies add up and none of which is a physical "
            "charge; leave it out"
        )


def check_sign(artifact: Artifact) -> None:
    """Refuse an electric field for a model whose physical charges are not known."""
    check_single_charge(artifact, "electricField")
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


def warn_of_other_training(artifact: Artifact, cell: FloatArray | None) -> None:
    """Warn, once for each model, of a system for which its sum was not made.

    The cell is None if the system is not periodic.
    """
    if not artifact.sha256:
        return  # It is being exported, and verified on systems of every kind.
    les = artifact.metadata["les"]
    kinds = ("systems that are not periodic", "periodic systems")
    if les.get("is_periodic") not in (None, cell is not None):
        _warn_once(
            artifact,
            "was trained for the long-range energy of %s (is_periodic), and is used for %s",
            kinds[les["is_periodic"]],
            kinds[cell is not None],
        )
    n_max, dl = les.get("n_max"), float(les["dl"])
    if n_max is None or cell is None:
        return
    if bool((largest_indices(torch.from_numpy(cell), cutoff_wavenumber(dl)) > n_max).any()):
        _warn_once(
            artifact,
            "leaves reciprocal vectors with a coordinate above n_max = %d out of its sum, as in "
            "its training: boxes up to %g A have none, this one (edges %s A) has. If the model was "
            "trained on smaller boxes, export it again with --ignore-n-max for the whole sum",
            n_max,
            (n_max + 1) * dl,
            ", ".join(f"{edge:.3f}" for edge in np.linalg.norm(cell, axis=1)),
        )


def _warn_once(artifact: Artifact, message: str, *values: object) -> None:
    if (artifact.path, message) not in _warned_models:
        _warned_models.add((artifact.path, message))
        logger.warning(f"%s {message}", artifact.path, *values)


def warn_of_smooth_cutoff(
    artifact: Artifact, latents: FloatArray, positions: FloatArray, cell: FloatArray
) -> None:
    """Tell how much the smooth cutoff, with which no model was trained, changes the energy.

    Latents have the shape (n,), or (n, rows) without induced moments.
    """
    structure = [torch.tensor(array) for array in (latents.T, positions, cell)]

    def energy(cutoff: str) -> float:
        sums: dict[str, Any] = {
            "les": artifact.canonical.les,
            "periodic": True,
            "cell": structure[2],
            "dtype": torch.float64,
            "num_atoms": len(latents),
            "options": EwaldOptions("direct", cutoff=cutoff),
        }
        return float(electrostatics_for(artifact.layout, **sums)(*structure)[0])

    difference = energy("smooth") - energy("hard")
    logger.warning(
        "lesCutoff='smooth' changes the energy of this structure by %+.6f eV (%+.3f meV per "
        "atom) against the model as it was trained",
        difference,
        1e3 * difference / len(latents),
    )


def _symbols(numbers: Sequence[int]) -> str:
    from openmm.app import Element

    def symbol(z: int) -> str:
        try:
            return str(Element.getByAtomicNumber(z).symbol)
        except KeyError:
            return f"atomic number {z}"

    return ", ".join(map(symbol, numbers))
