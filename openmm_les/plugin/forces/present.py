"""Models that a System already has, as forces or inside a CustomCVForce."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

import openmm

from openmm_les.errors import InputError
from openmm_les.names import shorten
from openmm_les.plugin.forces.pythonforce import LESCompute

#: Name of the force of a model of ours.
FORCE_NAME = "LES"
#: Forces whose content can be read; those of plugins have no class in Python.
_READABLE = (openmm.PythonForce, openmm.CustomCVForce)
#: Packages whose functions in a PythonForce are models.
_OURS, _OPENMM_ML = b"openmm_les", b"openmmml"


@dataclass(frozen=True)
class ModelInSystem:
    name: str
    compute: LESCompute
    particles: tuple[int, ...]  #: of the force; those that it may move
    atoms: tuple[int, ...]  #: particles that the model describes, in its order


def models_in(system: openmm.System) -> list[ModelInSystem]:
    """The models of this package that a System has as a `PythonForce`."""
    found = []
    for name, force in _python_forces(system.getForces()):
        pickled = _pickled(force)
        compute = pickle.loads(pickled) if _OURS in pickled else None
        if isinstance(compute, LESCompute):
            particles = _particles(force, system)
            links = len(compute.settings.get("links", ()))
            atoms = compute.settings.get("atoms") or particles[: len(particles) - links]
            found.append(ModelInSystem(name, compute, particles, tuple(atoms)))
    return found


def refuse_second_model(
    system: openmm.System,
    atoms: Iterable[int],
    name_of: Callable[[int], str] = "particle {}".format,
) -> None:
    """Refuse a System in which a model describes some of these particles already, or may do so."""
    for force in system.getForces():
        if force.getName() == FORCE_NAME and not isinstance(force, _READABLE):
            raise InputError(
                f"system: expected no model in a TorchForce, got the force {FORCE_NAME!r}, whose "
                "atoms are not known; start again from the System of the force field, with "
                "backend='pythonforce' for every region"
            )
    described = [(model.name, model.atoms) for model in models_in(system)]
    described += [
        (name, _particles(force, system))
        for name, force in _python_forces(system.getForces())
        if _OPENMM_ML in _pickled(force)
    ]
    inside = set(atoms)
    for name, others in described:
        twice = sorted(inside.intersection(others))
        if twice:
            raise InputError(
                f"system: expected one in which no model describes the chosen atoms yet, got the "
                f"force {name!r} on {len(twice)} of them ({shorten(map(name_of, twice))}), which "
                "would count twice; start again from the System of the force field (was a cell of "
                "a notebook run twice?)"
            )


def _python_forces(
    forces: Iterable[openmm.Force], name: str | None = None
) -> Iterator[tuple[str, openmm.PythonForce]]:
    """Each with the name of the force of the System that it is, or that it is a part of."""
    for force in forces:
        known = name or force.getName()
        if isinstance(force, openmm.PythonForce):
            yield known, force
        elif isinstance(force, openmm.CustomCVForce):
            number = force.getNumCollectiveVariables()
            yield from _python_forces(map(force.getCollectiveVariable, range(number)), known)


def _particles(force: openmm.PythonForce, system: openmm.System) -> tuple[int, ...]:
    return tuple(force.getParticles()) or tuple(range(system.getNumParticles()))


def _pickled(force: openmm.PythonForce) -> bytes:
    """The pickled function of a force, which only its XML holds; empty if it does not pickle."""
    try:
        xml = openmm.XmlSerializer.serialize(force)
    except openmm.OpenMMException:
        return b""
    return bytes.fromhex(ElementTree.fromstring(xml).attrib["function"])
