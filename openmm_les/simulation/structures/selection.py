"""Selection of the atoms of an ML region.

A selector is one of ``resname LIG``, ``residue 17`` (the number in the file), ``A:17`` (the same in
one chain), ``resindex 16`` (the position in the file, from 0), or a selection of mdtraj. The first
two mean the same in mdtraj. Its ``resid`` is an index, but a number in most other programs: it is
refused, and ``resindex`` replaces it, also inside a selection of mdtraj.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import groupby

from openmm import app
from openmm.app.topology import Atom, Residue

from openmm_les.errors import InputError, one_line
from openmm_les.names import shorten
from openmm_les.plugin.forces.atoms import residue_name, residue_number
from openmm_les.simulation.structures.structure import real_atoms
from openmm_les.versions import optional

_KINDS = "resname NAME, residue NUMBER, CHAIN:NUMBER, resindex INDEX"
#: Selectors that do not need mdtraj, each with its test of a residue.
_FORMS: dict[str, Callable[..., bool]] = {
    r"resname\s+([^\s'\"()=<>!]+)": lambda name, residue: bool(residue.name == name),
    r"residue\s+(-?\d+)": lambda number, residue: bool(residue.id == number),
    r"resindex\s+(\d+)": lambda index, residue: bool(residue.index == int(index)),
    r"(\S+?):(-?\d+[A-Za-z]?)": lambda chain, number, residue: bool(
        residue.chain.id == chain and residue_number(residue) == number
    ),
}
_AMBIGUOUS = re.compile(r"\bresid?\b")
_WATER = Counter({app.element.hydrogen: 2, app.element.oxygen: 1})
_MAX_CHAINS = 6


@dataclass(frozen=True)
class SelectedRegion:
    """An ML region, for messages and the summary."""

    atoms: int  #: Number of atoms in the region, without virtual sites
    of: int  #: Number of all atoms
    residues: list[str]  #: Names of residues with atoms in the region
    cut_bonds: list[str]  #: Descriptions of the bonds across its boundary

    def text(self) -> str:
        """One line."""
        bonds = shorten(self.cut_bonds) or "none"
        return f"{self.atoms} of {self.of} atoms in {shorten(self.residues)}; bonds cut: {bonds}"


def select(
    topology: app.Topology, selectors: Iterable[str], *, may_be_all: bool = False
) -> tuple[int, ...]:
    """Indices of the atoms that any of the selectors takes, ascending, without virtual sites.

    All atoms are refused, unless they `may_be_all`.
    """
    real = {atom.index for atom in real_atoms(topology.atoms())}
    chosen: set[int] = set()
    for selector in selectors:
        taken = real.intersection(_take(topology, selector))
        if not taken:
            raise InputError(
                f"ml_region: expected atoms for {selector!r}, got none; there are "
                f"{_contents(topology)}"
            )
        chosen |= taken
    for residue in topology.residues():
        inside = chosen.intersection(atom.index for atom in residue.atoms())
        if _is_water(residue) and 0 < len(inside) < 3:
            raise InputError(
                f"ml_region: expected whole water molecules, got {len(inside)} of 3 atoms of "
                f"{residue_name(residue)}; select residues, such as "
                f"{residue_name(residue).split()[1]!r}"
            )
    if chosen == real and not may_be_all:
        raise InputError(
            f"ml_region: expected a part of the structure, got all of its {len(real)} atoms; "
            "without ml_region (and force_field) the model describes everything"
        )
    return tuple(sorted(chosen))


def describe(topology: app.Topology, atoms: Iterable[int]) -> SelectedRegion:
    """Describe a region."""
    inside = set(atoms)
    everything = list(topology.atoms())
    residues = dict.fromkeys(everything[index].residue for index in sorted(inside))
    names = [residue_name(residue) for residue in residues]
    cut = [
        f"{ml.name} of {residue_name(ml.residue)} to {mm.name} of {residue_name(mm.residue)}"
        for ml, mm in cut_bonds(topology, inside)
    ]
    return SelectedRegion(len(inside), len(real_atoms(everything)), names, cut)


def cut_bonds(topology: app.Topology, atoms: Collection[int]) -> list[tuple[Atom, Atom]]:
    """Bonds across the boundary of a region, each as (atom inside, atom outside)."""
    ordered = (sorted(bond, key=lambda atom: atom.index not in atoms) for bond in topology.bonds())
    return [(ml, mm) for ml, mm in ordered if ml.index in atoms and mm.index not in atoms]


def _take(topology: app.Topology, selector: str) -> Iterable[int]:
    if word := _AMBIGUOUS.search(selector):
        raise InputError(
            f"ml_region: {word[0]} in {selector!r} is the number in the file for some programs, an "
            "index for others; write residue 17 or A:17 for the number, resindex 16 for the index "
            "from 0"
        )
    for form, test in _FORMS.items():
        if match := re.fullmatch(form, selector):
            words = match.groups()
            return [atom.index for atom in topology.atoms() if test(*words, atom.residue)]
    return _by_mdtraj(topology, selector)


def _by_mdtraj(topology: app.Topology, selector: str) -> Iterable[int]:
    message = f"ml_region: expected {_KINDS}, got {selector!r}; for selections of mdtraj install it"
    mdtraj = optional("mdtraj", "analysis", message)
    selection = re.sub(r"\bresindex\b", "resid", selector)
    try:
        return [int(i) for i in mdtraj.Topology.from_openmm(topology).select(selection)]
    except Exception as error:  # the parser raises many kinds
        raise InputError(
            f"ml_region: expected {_KINDS} or a selection of mdtraj, got {selector!r}: "
            f"{one_line(error)}"
        ) from None


def _is_water(residue: Residue) -> bool:
    return Counter(atom.element for atom in real_atoms(residue.atoms())) == _WATER


def _contents(topology: app.Topology) -> str:
    """The residues of each chain, for messages."""
    chains = []
    for chain in topology.chains():
        runs = [list(group) for _, group in groupby(chain.residues(), lambda one: one.name)]
        names = (
            f"{run[0].name} {residue_number(run[0])}"
            + (f" to {residue_number(run[-1])}" if run[1:] else "")
            for run in runs
        )
        chains.append(f"chain {chain.id.strip() or 'without a name'}: {shorten(names)}")
    more = len(chains) - _MAX_CHAINS
    return "; ".join(chains[:_MAX_CHAINS]) + (f"; and {more} more chains" if more > 0 else "")
