"""How a run names atoms, residues and settings: as in the file, and as in its configuration."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator

from openmm import app

from openmm_les.errors import InputError
from openmm_les.plugin.forces.region import residue_name

#: Options of createSystem and createMixedSystem, and what a run calls them.
_FIELDS = {
    "chargeTolerance": "charge_tolerance",
    "cudaGraphs": "cuda_graphs",
    "ewaldTolerance": "ewald_tolerance",
    "lesCutoff": "les_cutoff",
    "maxNeighbors": "max_neighbors",
}
_OPTION = re.compile(rf"\b({'|'.join(_FIELDS)})\b")
#: In a run a charge that is given is allowed.
_PERMISSION = re.compile(r"\ballowNetCharge\s*=\s*True\b")
#: A setting as Python has it, ``name='value'``, ``name: True``.
_KEYWORD = re.compile(
    rf"\b(backend|charge|device|embedding|ewald|{'|'.join(_FIELDS.values())})(?:=|: )"
    r"('([^']*)'|True\b|False\b|[-+\d.]+)"
)
_FEW = 3
_SWITCHES = {"True": "on", "False": "off"}
_ATOM = re.compile(r"\batom (\d+) \([^()]*\)")


def residue_names(residues: Iterable[app.topology.Residue]) -> str:
    """Some residues, such as ``residues ALA A:17, LIG A:18, HOH A:19 and 5 more``."""
    names = [residue_name(residue) for residue in residues]
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return f"residue{'s' if len(names) > 1 else ''} " + ", ".join(names[:_FEW]) + more


def atom_name(atom: app.topology.Atom) -> str:
    """An atom by its number in the file, such as ``atom 4 (CA of ALA A:17)``."""
    return f"atom {atom.id} ({atom.name} of {residue_name(atom.residue)})"


def of_run(text: str, topology: app.Topology) -> str:
    """A message of createSystem, or of a force, in the words of a run.

    Args:
        text: names options as in Python, and atoms by their index.
        topology: has these atoms.
    """
    atoms = list(topology.atoms())

    def named(match: re.Match[str]) -> str:
        index = int(match[1])
        return atom_name(atoms[index]) if index < len(atoms) else match[0]

    def setting(match: re.Match[str]) -> str:
        value = match[2] if match[3] is None else match[3]
        return f"{match[1]}: {_SWITCHES.get(value, value)}"

    text = _PERMISSION.sub("give it as `charge`", _ATOM.sub(named, text))
    return _KEYWORD.sub(setting, _OPTION.sub(lambda match: _FIELDS[match[1]], text))


@contextlib.contextmanager
def in_words_of_a_run(topology: app.Topology) -> Iterator[None]:
    """Let an `InputError` name settings and atoms as the user of a run knows them."""
    try:
        yield
    except InputError as error:
        raise InputError(of_run(str(error), topology)) from error
