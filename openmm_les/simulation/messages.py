"""Messages in the terms of a run: settings as in its configuration, atoms as in its structure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from openmm import app

from openmm_les.errors import InputError
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.names import spellings
from openmm_les.simulation.structures.names import atom_name

#: Settings of a run by the names of the options of createSystem and createMixedSystem.
_FIELDS = {
    name: spellings(name)[1]
    for name in ("chargeTolerance", "mmDamping", *EvaluationOptions.accepted())
    if spellings(name)[1] != name
}
_OPTION = re.compile(rf"\b({'|'.join(_FIELDS)})\b")
#: A run allows every charge that is given.
_PERMISSION = re.compile(r"\ballowNetCharge\s*=\s*True\b")
#: A setting as Python has it, ``name='value'``, ``name: True``.
_KEYWORD = re.compile(
    rf"\b(backend|charge|device|embedding|ewald|polarization|{'|'.join(_FIELDS.values())})(?:=|: )"
    r"('([^']*)'|True\b|False\b|[-+\d.]+)"
)
_SWITCHES = {"True": "on", "False": "off"}
_ATOM = re.compile(r"\batom (\d+) \([^()]*\)")


def run_terms(text: str, topology: app.Topology) -> str:
    """Translate a message that names options of createSystem, and atoms of `topology` by index."""
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
    """Translate the message of every `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(run_terms(str(error), topology)) from error
