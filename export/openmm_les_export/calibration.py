"""Finds LES parameters that a checkpoint does not hold from structures with known energies.

The choice that reproduces the energies is taken, if it clearly does so best.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from openmm_les.analysis.reference_data import read_structures
from openmm_les.artifact import Artifact
from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.electrostatics.cell import self_energy_coefficient
from openmm_les.errors import InputError, SimulationError
from openmm_les.evaluation.conditions import conditions_in
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.results import Evaluation
from openmm_les.evaluation.systems import SystemModels
from openmm_les.files.reading import Damage, Kind, boundary
from openmm_les_export.families.les_choice import PREFACTORS, LESChoice
from openmm_les_export.verification.reference import Array

if TYPE_CHECKING:
    from ase import Atoms

logger = logging.getLogger(__name__)

#: Smallest and largest number of structures that are evaluated, evenly over the file.
MIN_FRAMES, MAX_FRAMES = 5, 500
_CANNOT = "calibration: {file} cannot be used: {reason}; leave the structure out"
_KIND = Kind(InputError, "calibration", _CANNOT)
#: Smallest distance between opposite faces of a box [A], and largest volume per atom [A^3].
_THINNEST, _LARGEST = 1.0, 1e5
#: Standard errors by which a fit must be nearer to the best choice than to any other.
_CLEAR = 2.0


def calibrate(
    read: Callable[[LESChoice], CanonicalModel],
    file: str | os.PathLike[str],
    choice: LESChoice,
    prefactors: Sequence[float | None] = PREFACTORS,
) -> LESChoice:
    """Completes a choice from structures with the energies [eV] that the model was trained on.

    `read` reads the model with a choice. Among `prefactors`, None stands for that of the model
    file.
    """
    origin = f"--calibrate {Path(file).name}"
    if choice.prefactor is not None:
        prefactors = (choice.prefactor,)
    removed = choice.remove_self_interaction
    states = (True, False) if removed is None else (removed,)
    candidates = [
        LESChoice(
            prefactor,
            state,
            {"prefactor": origin, "remove_self_interaction": origin, **choice.origins},
        )
        for prefactor, state in itertools.product(prefactors, states)
    ]
    models = [read(candidate) for candidate in candidates]
    with boundary(Path(file), _KIND):
        errors = _errors(models, _labelled(Path(file), models[0].hyper["elements"]))
    sizes = np.sqrt((errors**2).mean(0))
    order = np.argsort(sizes)
    listed = "; ".join(
        f"{models[i].les['prefactor']:g} "
        f"{'removed' if models[i].les['remove_self_interaction'] else 'kept'}: "
        f"{1e3 * sizes[i]:.3g} meV/atom"
        for i in order
    )
    if not all(_is_clear(errors[:, order[0]], errors[:, i]) for i in order[1:]):
        raise InputError(
            f"calibration: expected one choice that reproduces the energies of {file} clearly "
            f"better than the others, got {listed}; give more structures of the training, or the "
            "options themselves"
        )
    logger.info("calibration: errors of the energies of %s: %s", file, listed)
    return candidates[int(order[0])]


def _is_clear(best: Array, other: Array) -> bool:
    """Whether the energies decide between two choices.

    Between the two, errors are interpolated linearly. The best fit lies at 0 for the best choice
    and at 1 for the other; it must be nearer to 0 by more than chance. It must not be far below 0
    either, since energies with another zero favour one of the choices whichever is right.
    """
    step = other - best
    places = -best * step / (step**2).mean()
    chance = _CLEAR * places.std(ddof=1) / len(places) ** 0.5
    return bool(abs(places.mean() + chance) < 0.5)


def _labelled(file: Path, elements: list[int]) -> list[tuple[Atoms, float]]:
    """Structures with energies [eV], of the model's elements."""
    frames = read_structures(file, option="calibration")
    found = []
    for index, atoms in enumerate(frames):
        results: dict[str, Any] = {} if atoms.calc is None else atoms.calc.results
        energy = results.get("energy", atoms.info.get("energy"))
        known = set(atoms.numbers.tolist()) <= set(elements)
        if energy is None or not known or len(set(atoms.pbc.tolist())) > 1:
            continue
        values = (energy, atoms.positions, atoms.cell.array)
        if not all(_are_finite_numbers(value) for value in values) or np.size(energy) != 1:
            raise Damage(f"numbers of structure {index} are not finite")
        if atoms.pbc.all() and not _is_a_box(atoms):
            box = atoms.cell.array.tolist()
            raise Damage(f"the box of structure {index} is flat or far too large: {box} A")
        found.append((atoms, float(np.reshape(energy, ()))))
    if len(found) < MIN_FRAMES:
        raise InputError(
            f"calibration: expected at least {MIN_FRAMES} structures with an energy, of the "
            f"model's elements, periodic in all directions or none, got {len(found)} in {file}"
        )
    step = -(-len(found) // MAX_FRAMES)
    return found[::step]


def _are_finite_numbers(value: object) -> bool:
    array = np.asarray(value)
    return array.dtype.kind in "iuf" and bool(np.isfinite(array).all())


def _is_a_box(atoms: Atoms) -> bool:
    """Whether a box is neither so flat nor so large that sums over it never end."""
    cell = atoms.cell.array
    volume = abs(float(np.linalg.det(cell)))
    faces = np.linalg.norm(np.cross(np.roll(cell, -1, 0), np.roll(cell, -2, 0)), axis=1)
    thin = (volume < _THINNEST * faces).any() or not faces.all()
    return not thin and volume < _LARGEST * len(atoms)


def _errors(models: list[CanonicalModel], labelled: list[tuple[Atoms, float]]) -> Array:
    """Errors of the energy [eV/atom] of each structure and model, [frames, models].

    The models differ only in prefactor and self-interaction, so one evaluation serves all; but for
    moments, whose response is not proportional to the prefactor.
    """
    evaluated = models if "moments" in models[0].hyper else models[:1]
    artifacts = [Artifact.unsaved(m, Path(str(m.source["file"]))) for m in evaluated]
    options = EvaluationOptions(precision="double", ewald="direct")
    systems = [SystemModels(artifact, options) for artifact in artifacts]
    errors = np.zeros((len(labelled), len(models)))
    order = sorted(range(len(labelled)), key=lambda i: labelled[i][0].numbers.tolist())
    for frame in order:  # structures of the same atoms share a `SystemModel`
        atoms, label = labelled[frame]
        cell = atoms.cell.array if atoms.pbc.all() else None
        if cell is not None and np.linalg.det(cell) < 0:
            cell = cell[[1, 0, 2]]  # `SystemModel` takes right-handed ones
        conditions = conditions_in(artifacts[0], {**atoms.info, **atoms.arrays})
        energies = []
        for each in systems:
            system = each.model_for(atoms.numbers, atoms.positions, cell, conditions)
            try:
                found = system.evaluate(atoms.positions, cell)
            except SimulationError as error:
                raise Damage(f"structure {frame}: {error}") from error
            energies.append(found.energy + system.reference_energy)
        if len(evaluated) < len(models):
            energies = _rescaled(models, energies[0], found)
        errors[frame] = (np.array(energies) - label) / len(atoms)
    return errors


def _rescaled(models: list[CanonicalModel], energy: float, found: Evaluation) -> list[float]:
    """Energies of all models from that of the first."""
    squares = float((found.charges**2).sum())
    prefactor, removed = _long_range(models[0], squares)
    energies = []
    for model in models:
        factor, self_energy = _long_range(model, squares)
        long_range = (found.les_energy + removed) * factor / prefactor - self_energy
        energies.append(energy - found.les_energy + long_range)
    return energies


def _long_range(model: CanonicalModel, squares: float) -> tuple[float, float]:
    """Prefactor, and the energy [eV] that the model removes, given the sum of squared charges."""
    prefactor, sigma = float(model.les["prefactor"]), float(model.les["sigma"])
    removed = bool(model.les["remove_self_interaction"])
    return prefactor, removed * self_energy_coefficient(prefactor, sigma) * squares
