"""What a reporter can write of a model: which quantities a model has, and their values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.evaluation.checks import check_single_charge
from openmm_les.evaluation.results import LatentMoments
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.networks.moments import missing_moments, moments_in
from openmm_les.plugin.observed import Arranged
from openmm_les.units import COULOMB_CONSTANT

#: Quantities that spectra are computed from.
FOR_SPECTRA = frozenset(("dipole", "current", "velocities", "polarizability"))
#: Quantities that need physical charges.
_OF_CHARGES = frozenset(("dipole", "current", "charges", "born_charges"))
#: Quantities that need derivatives of charges and dipoles.
_OF_RESPONSE = frozenset(("current", "born_charges"))
#: Quantities of which an ML atom has those of its link atoms, too.
_SUMMED = frozenset(
    ("charges", "atomic_dipoles", "quadrupoles", "induced_charges", "induced_dipoles")
)


def check(artifact: Artifact, names: Iterable[str], what: str) -> None:
    """Refuse quantities that a model does not have (InputError); `what` asks for them."""
    for name in names:
        if name in _OF_CHARGES:
            check_single_charge(artifact, f"{what}: {name}")
        if missing := missing_moments(artifact.layout, name):
            there = ", ".join(("charges", *moments_in(artifact.layout)))
            raise InputError(
                f"{what}: {name}: expected a model with latent {' or '.join(missing)}, got "
                f"{artifact.path}, which has {there}; leave it out"
            )


def evaluate(
    model: SystemModel, names: Iterable[str], placed: Arranged, cell: FloatArray | None
) -> dict[str, FloatArray]:
    """At least the quantities of `names` that need no velocities, by name.

    Without derivatives of the charges one evaluation is enough.
    """
    wanted = set(names)
    box = cell if model.periodic else None
    found: dict[str, FloatArray] = {}
    if not _OF_RESPONSE.isdisjoint(wanted):
        response = model.response(placed.positions, box)
        les_energy, moments = response.les_energy, response.moments
        found["charges"] = response.charges
        found["born_charges"] = placed.born_charges(response.born_charges)
    elif wanted == {"velocities"}:
        return found
    else:
        result = model.evaluate(placed.positions, box)
        les_energy, moments = result.les_energy, result.moments
        if moments is None and not _OF_CHARGES.isdisjoint(wanted):
            found["charges"] = model.physical_charges(result.charges)
    found["les_energy"] = np.asarray(les_energy)
    if moments is not None:
        found |= _physical(model, moments)
    if "charges" in found:
        found["dipole"] = found["charges"] @ placed.positions
    if "atomic_dipoles" in found:
        found["dipole"] = found["dipole"] + found["atomic_dipoles"].sum(axis=0)
    for name in _SUMMED.intersection(found):
        found[name] = placed.of_particles(found[name])
    return found


def _physical(model: SystemModel, moments: LatentMoments) -> dict[str, FloatArray]:
    """Of the atoms of the model."""
    every = model.physical_moments(moments)
    nothing = np.zeros_like(moments.charges)
    induced = model.physical_moments(replace(moments, charges=nothing, dipoles=None))
    alpha = every.polarizability
    found = {
        "charges": every.charges,
        "atomic_dipoles": every.dipoles,
        "quadrupoles": every.quadrupoles,
        "polarizability": None if alpha is None else COULOMB_CONSTANT * alpha,
        "induced_charges": induced.charges,
        "induced_dipoles": induced.dipoles,
    }
    return {name: values for name, values in found.items() if values is not None}
