"""Reads XML files of OpenMM without running code in them.

A System in XML can hold Python code (a PythonForce is a pickle), and so can a force field (scripts,
and an attribute that OpenMM evaluates). Such files are refused unless they come with OpenMM.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import openmm
from openmm.app.forcefield import _getDataDirectories

from openmm_les.errors import InputError, one_line
from openmm_les.files.reading import Kind, boundary, read_file

#: Forces that the run adds itself.
_ADDED_BY_RUN = ("Barostat", "Thermostat")
#: Classes that hold numbers and formulas, but no code.
_HARMLESS = frozenset(
    ("System", "CMMotionRemover", "HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce")
    + ("RBTorsionForce", "CMAPTorsionForce", "NonbondedForce", "GayBerneForce", "GBSAOBCForce")
    + ("LCPOForce", "ATMForce", "ConstantPotentialForce", "DrudeForce", "HippoNonbondedForce")
    + ("CustomAngleForce", "CustomBondForce", "CustomCVForce", "CustomCentroidBondForce")
    + ("CustomCompoundBondForce", "CustomExternalForce", "CustomGBForce", "CustomHbondForce")
    + ("CustomManyParticleForce", "CustomNonbondedForce", "CustomTorsionForce")
    + ("CustomVolumeForce", "OrientationRestraintForce", "RGForce", "RMSDForce")
    + ("AmoebaGeneralizedKirkwoodForce", "AmoebaMultipoleForce", "AmoebaTorsionTorsionForce")
    + ("AmoebaVdwForce", "AmoebaWcaDispersionForce", "Continuous1DFunction")
    + ("Continuous2DFunction", "Continuous3DFunction", "Discrete1DFunction", "Discrete2DFunction")
    + ("Discrete3DFunction",)
)
#: Elements whose text OpenMM runs, and an attribute that it evaluates.
_SCRIPTS = ("Script", "InitializationScript")
_EVALUATED = "useDispersionCorrection"
_TRUTH_VALUES = ("True", "False", "0", "1")
_KIND = Kind(InputError, "system", "system: {file} is not an XML file: {reason}")
#: Errors of the parser for invalid XML.
_PARSE_ERRORS = (ElementTree.ParseError, ValueError, LookupError, RecursionError)


def read_system(path: Path) -> openmm.System:
    """Read a System.

    OpenMM creates objects by the attribute ``type``, whatever the tag. Its parser also reads
    elements in comments, so it gets the checked tree without comments.
    """
    with boundary(path, _KIND):
        root = ElementTree.fromstring(read_file(path))
    _check_types(path, root)
    try:
        return openmm.XmlSerializer.deserialize(ElementTree.tostring(root, encoding="unicode"))
    except Exception as error:  # OpenMMException, or ValueError for XML of something else
        raise InputError(f"system: OpenMM cannot read {path}: {one_line(error)}") from None


def _check_types(path: Path, root: ElementTree.Element) -> None:
    """Refuse anything but a System of harmless classes."""
    if (kind := root.get("type", "System")) != "System":
        raise InputError(
            "system: expected what openmm.XmlSerializer.serialize(system) gives, got a "
            f"{kind[:40]} in {path}"
        )
    for kind in (element.get("type", "") for element in root.iter()):
        if kind.endswith(_ADDED_BY_RUN):
            raise InputError(
                f"system: expected a force field alone, got a {kind} in {path}; leave it out: "
                "ensemble, temperature and model are settings of the run"
            )
        if kind and not kind.isdecimal() and kind not in _HARMLESS:
            raise InputError(
                f"system: expected forces that hold numbers and formulas, got type {kind[:40]!r} "
                f"in {path}, which could run code of whoever wrote the file; nothing was run: "
                "leave it out, or add it in a script of your own"
            )


def refuse_scripts(names: Iterable[str]) -> None:
    """Refuse force field files that could run code, included files too."""
    folders = [os.path.realpath(folder) for folder in _getDataDirectories()]
    waiting, seen = list(names), set()  # OpenMM reports missing and broken files
    while waiting:
        name = waiting.pop()
        path = _located(name, folders)
        if path is None or path in seen:
            continue
        seen.add(path)
        if os.path.realpath(path).startswith(tuple(folder + os.sep for folder in folders)):
            continue
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, *_PARSE_ERRORS):
            continue
        _check_scripts(path, root)
        for included in root.findall("Include"):
            file = included.get("file", "")
            beside = os.path.join(os.path.dirname(path), file)
            waiting.append(beside if os.path.isfile(beside) else file)


def _check_scripts(path: str, root: ElementTree.Element) -> None:
    for element in root.iter():
        value = element.get(_EVALUATED, "False")
        if element.tag in _SCRIPTS or value not in _TRUTH_VALUES:
            what = element.tag if element.tag in _SCRIPTS else f"{_EVALUATED}={value[:40]!r}"
            raise InputError(
                f"force_field: {path} holds Python code ({what}), which OpenMM would run; nothing "
                "was run: if you trust it, make the System in a script of your own and give it as "
                "system: FILE.xml"
            )


def _located(name: str, folders: Iterable[str]) -> str | None:
    """Where OpenMM finds a force field file."""
    places = (name, *(os.path.join(folder, name) for folder in folders))
    return next((place for place in places if os.path.isfile(place)), None)
