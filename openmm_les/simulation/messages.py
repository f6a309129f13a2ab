"""How a run names atoms, residues and settings: as in the file, and as in its configuration."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from openmm import app

from openmm_les.errors import InputError
from openmm_les.simulation.structures.names import atom_name

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
_SWITCHES = {"True": "on", "False": "off"}
_ATOM = re.compile(r"\batom (\d+) \([^()]*\)")


def run_terms(text: str, topology: app.Topology) -> str:
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
def in_run_terms(topology: app.Topology) -> Iterator[None]:
    """Let an `InputError` name settings and atoms as the user of a run knows them."""
    try:
        yield
    except InputError as error:
        raise InputError(run_terms(str(error), topology)) from error
