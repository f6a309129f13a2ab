"""Checks a structure for missing atoms, above all hydrogen.

A molecule that lacks a hydrogen atom is a radical, for which a model still gives finite energies.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from openmm import app

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.names import shorten
from openmm_les.plugin.forces.atoms import HYDROGEN, residue_name
from openmm_les.simulation.structures.names import residue_names

logger = logging.getLogger(__name__)

#: Other names of residues in OpenMM's tables.
_SYNONYMS = {"WAT": "HOH"} | dict.fromkeys(("HID", "HIE", "HIP"), "HIS")
#: Atoms that depend on whether a residue ends a chain.
_TERMINAL = frozenset({"OXT", "P", "OP1", "OP2", "OP3"})
#: Longest bond of hydrogen, where the topology has no bonds [nm].
_MAX_BOND = 0.135


def check(
    path: Path, topology: app.Topology, positions: FloatArray, box: FloatArray | None
) -> None:
    """Refuse a structure that lacks atoms.

    For residues that OpenMM knows, the heavy atoms are known, and so are the numbers of hydrogen
    atoms on each carbon, on the backbone nitrogen and in water, which do not depend on the pH. For
    others, an odd number of electrons or carbon without hydrogen leads to a warning.
    """
    _check_heavy(path, topology)
    bound = _bound_hydrogens(topology, positions, box)
    # Bonds between residues may replace hydrogen.
    joining = (bond for bond in topology.bonds() if bond[0].residue is not bond[1].residue)
    joined = Counter(atom for bond in joining for atom in bond)
    bare, lacking, doubtful = [], [], []
    for residue in topology.residues():
        atoms = list(residue.atoms())
        elements = {atom.element for atom in atoms}
        expected = _hydrogens().get(_SYNONYMS.get(residue.name, residue.name))
        if expected is None:
            if app.element.carbon in elements and elements.isdisjoint(HYDROGEN):
                doubtful.append(residue)
        elif elements.isdisjoint(HYDROGEN):
            bare.append(residue)
        else:
            for atom in atoms:
                own = int(atom.name == "N")  # the bond to the residue before
                if bound[atom.index] < expected[atom.name] and joined[atom] <= own:
                    lacking.append((bound[atom.index], expected[atom.name], atom))
    remedy = "add them, for example with PDBFixer or openmm.app.Modeller.addHydrogens"
    if bare:
        raise InputError(
            f"structure: expected all hydrogen atoms, got none in {residue_names(bare)} of "
            f"{path}; {remedy}"
        )
    if lacking:
        found = (
            f"{got} of {wanted} on {atom.name} of {residue_name(atom.residue)}"
            for got, wanted, atom in lacking
        )
        raise InputError(
            f"structure: expected all hydrogen atoms, got {shorten(found)} in {path}; {remedy}"
        )
    if doubtful:
        names = residue_names(doubtful)
        logger.warning(
            f"{names}: carbon without hydrogen; the structure must have all its hydrogen atoms"
        )
    _check_electrons(topology)


def _check_heavy(path: Path, topology: app.Topology) -> None:
    """Refuse residues that OpenMM knows and that lack heavy atoms."""
    lacking = []
    for residue in topology.residues():
        expected = _heavy_atoms().get(_SYNONYMS.get(residue.name, residue.name), frozenset())
        got = {atom.name for atom in residue.atoms() if atom.element not in (None, *HYDROGEN)}
        # With other names of atoms, nothing can be said.
        if got - _TERMINAL <= expected and (missing := sorted(expected - got)):
            lacking.append(f"{', '.join(missing)} of {residue_name(residue)}")
    if lacking:
        raise InputError(
            f"structure: expected all atoms of residues that OpenMM knows, got none for "
            f"{shorten(lacking)} in {path}; add them, for example with PDBFixer"
        )


def is_known(name: str) -> bool:
    """Whether OpenMM knows the hydrogen atoms of residues of this name."""
    return _SYNONYMS.get(name, name) in _hydrogens()


@cache
def _heavy_atoms() -> dict[str, frozenset[str]]:
    """Names of the heavy atoms of each residue that OpenMM knows, without terminal ones."""
    table = ElementTree.parse(Path(app.__file__).parent / "data" / "residues.xml")
    found = {}
    for residue in table.iter("Residue"):
        ends = (bond.get(end, "") for bond in residue.iter("Bond") for end in ("from", "to"))
        heavy = {name for name in ends if name[:1] not in ("-", "+", "H")}
        if residue.get("name") != "UNK":
            found[residue.get("name", "")] = frozenset(heavy - _TERMINAL)
    return found


@cache
def _hydrogens() -> dict[str, Counter[str]]:
    """Numbers of hydrogen atoms that do not depend on pH, by residue and atom they are bound to."""
    table = ElementTree.parse(Path(app.__file__).parent / "data" / "hydrogens.xml")
    return {
        residue.get("name", ""): Counter(
            parent
            for hydrogen in residue.iter("H")
            if (parent := hydrogen.get("parent", "")).startswith("C")
            or parent == "N"
            or residue.get("name") == "HOH"
            if hydrogen.get("terminal") is None
        )
        for residue in table.iter("Residue")
        if residue.get("name") != "UNK"  # a name that programs also give to ligands
    }


def _bound_hydrogens(
    topology: app.Topology, positions: FloatArray, box: FloatArray | None
) -> Counter[int]:
    """Number of hydrogen atoms on each atom, from bonds, or from distances without bonds."""
    bound: Counter[int] = Counter()
    bonded = set()
    for one, other in topology.bonds():
        for hydrogen, host in ((one, other), (other, one)):
            if hydrogen.element in HYDROGEN:
                bound[host.index] += 1
                bonded.add(hydrogen.index)
    inverse = np.zeros((3, 3)) if box is None else np.linalg.inv(box)
    for residue in topology.residues():
        atoms = list(residue.atoms())
        loose = [a.index for a in atoms if a.element in HYDROGEN and a.index not in bonded]
        hosts = [a.index for a in atoms if a.element not in (None, *HYDROGEN)]
        if not loose or not hosts:
            continue
        apart = positions[loose][:, None] - positions[hosts][None]
        if box is not None:
            apart -= np.round(apart @ inverse) @ box
        lengths = np.linalg.norm(apart, axis=-1)
        for length, place in zip(lengths.min(axis=1), lengths.argmin(axis=1), strict=True):
            bound[hosts[place]] += int(length < _MAX_BOND)
    return bound


def _check_electrons(topology: app.Topology) -> None:
    """Warn of unknown molecules with an odd number of electrons."""
    group = {residue: residue for residue in topology.residues()}

    def head(residue: app.topology.Residue) -> app.topology.Residue:
        while group[residue] is not residue:
            residue = group[residue]
        return residue

    for one, other in topology.bonds():
        group[head(one.residue)] = head(other.residue)
    members: dict[app.topology.Residue, list[app.topology.Residue]] = defaultdict(list)
    for residue in group:
        members[head(residue)].append(residue)
    odd = []
    for residues in members.values():
        if any(is_known(each.name) for each in residues):
            continue
        numbers = [a.element.atomic_number for each in residues for a in each.atoms() if a.element]
        if len(numbers) > 1 and sum(numbers) % 2:
            odd.extend(residues)
    if odd:
        logger.warning(
            f"{residue_names(odd)}: an odd number of electrons if neutral; unless this is an ion "
            "or a radical, a hydrogen atom is missing"
        )
