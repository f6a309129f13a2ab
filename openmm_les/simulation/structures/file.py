"""Reads PDB and mmCIF files, and checks that OpenMM's readers lose no atom.

Those readers skip lines that they do not understand, take other columns for missing ones, and drop
alternate locations, all silently. So the atoms of the file are counted here independently.
"""

from __future__ import annotations

import codecs
import io
import logging
import math
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm import app
from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader

from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.names import shorten
from openmm_les.simulation.structures import hydrogens

logger = logging.getLogger(__name__)

_KIND = Kind(InputError, "structure", "structure: {file} is not a valid structure: {reason}")
PDB = (".pdb", ".ent")
MMCIF = (".cif", ".mmcif", ".pdbx")

_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
#: Byte order marks; longer ones first.
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig"}
_BYTE_ORDER_MARKS |= dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32")
_BYTE_ORDER_MARKS |= dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16")
_WEB_PAGE = re.compile(r"\s*<(!doctype|html|\?xml)", re.IGNORECASE)
#: Lines that are meant as atoms, and how they have to begin for OpenMM.
_ATOM_LINE = re.compile(r"[\s\u200b-\u200f\u2060\ufeff]*(ATOM|HETATM)[\s\d]", re.IGNORECASE)
_ATOM = ("ATOM  ", "HETATM")
#: Columns of coordinates, alternate location and element in a PDB line.
_X, _Y, _Z = slice(30, 38), slice(38, 46), slice(46, 54)
_LOCATION, _ELEMENT = slice(16, 17), slice(76, 78)
_SITE = "EP"
#: Columns that OpenMM's mmCIF reader replaces by others if they are missing.
_COLUMNS = (
    *("id", "type_symbol", "label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id"),
    *("Cartn_x", "Cartn_y", "Cartn_z"),
)
#: In the warning of OpenMM's PDB reader when it drops an atom.
_LOST_ATOM = "duplicate atom"


@dataclass(frozen=True)
class _Record:
    """An atom of a file."""

    residue: str  #: Such as ``ALA A:17``, for messages
    name: str
    location: str  #: Letter of the alternate location; empty without
    identity: tuple[str, ...]  #: Chain, number, ... of the residue, and the name of the atom
    is_guessed: bool = False  #: The element is guessed from the name


def read_structure_file(path: Path) -> tuple[Any, bytes]:
    """Read a PDB or mmCIF file, as `openmm.app.PDBFile` or `PDBxFile`, and as bytes."""
    kind = path.suffix.lower()
    if kind not in PDB + MMCIF:
        raise InputError(
            f"structure: expected a PDB or mmCIF file ({', '.join(PDB + MMCIF)}), got {path}"
        )
    with boundary(path, _KIND):
        content = read_file(path)
        text = _text(path, content)
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            try:
                records = list(_of_pdb(path, text) if kind in PDB else _of_mmcif(path, text))
                file = (app.PDBFile if kind in PDB else app.PDBxFile)(io.StringIO(text))
            except (AttributeError, LookupError, TypeError) as error:
                raise Damage("it ends too early, or its tables are damaged") from error
    _check_names(path, raised)
    _check_count(path, records, file.topology.getNumAtoms())
    if guessed := [f"{one.name} of {one.residue}" for one in records if one.is_guessed]:
        names = shorten(guessed)
        logger.warning(
            "%s has no elements in columns 77 and 78; guessed from the names of %s", path, names
        )
    return file, content


def _text(path: Path, content: bytes) -> str:
    """Decode a file and normalise its line ends; refuses what is certainly no structure."""
    found = next((name for magic, name in _COMPRESSED.items() if content.startswith(magic)), None)
    if found:
        raise InputError(
            f"structure: expected a PDB or mmCIF file, got {path}, which is compressed ({found}); "
            "unpack it first"
        )
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8"
    )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # names of authors; atoms are ASCII
    if "\0" in text:
        raise InputError(f"structure: expected a PDB or mmCIF file, got binary data in {path}")
    if _WEB_PAGE.match(text):
        raise InputError(
            f"structure: expected a PDB or mmCIF file, got a web page in {path}; look at it in a "
            "browser: a download may have failed"
        )
    if not text.strip():
        raise InputError(f"structure: expected atoms, got an empty file {path}")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _of_pdb(path: Path, text: str) -> Iterator[_Record]:
    """Atoms of the first model of a PDB file."""
    if "_atom_site." in text:
        raise InputError(f"structure: {path} is an mmCIF file; let its name end in .cif")
    found = False
    known = {*app.Element._elements_by_symbol, _SITE}
    for number, line in enumerate(text.split("\n"), 1):
        if found and line.startswith("ENDMDL"):
            return
        if line.startswith("CRYST1"):
            _check_crystal(path, line)
        if not _ATOM_LINE.match(line):
            continue
        found = True
        _check_line(f"line {number} of {path}", line, known)
        name, chain, place = line[12:16], line[21:22].strip(), line[22:27].strip()
        residue = f"{line[17:21].strip()} {f'{chain}:' if chain else ''}{place}"
        has_element = line[_ELEMENT].strip().isalpha()
        is_guessed = not has_element and not hydrogens.is_known(line[17:20].strip())
        identity = (chain, place, name)
        yield _Record(residue, name.strip(), line[_LOCATION].strip(), identity, is_guessed)
    if not found:
        raise InputError(
            f"structure: expected atoms, got none in {path}: no line begins with ATOM or HETATM"
        )


def _check_crystal(path: Path, line: str) -> None:
    try:
        lengths = [float(line[start : start + 9]) for start in (6, 15, 24)]
        angles = [float(line[start : start + 7]) for start in (33, 40, 47)]
    except ValueError:
        lengths, angles = [math.nan], []
    if not all(0.0 <= x < math.inf for x in lengths) or not all(0.0 < x < 180.0 for x in angles):
        raise InputError(
            f"structure: expected lengths [A] and angles [degrees] of a box in CRYST1 of {path}, "
            f"got {line[6:54].strip()!r}"
        )


def _check_line(where: str, line: str, elements: Collection[str]) -> None:
    if not line.startswith(_ATOM):
        raise InputError(
            f"structure: expected 'ATOM  ' or 'HETATM' in the first six columns of {where}, got "
            f"{line[:6]!r}; OpenMM would leave this atom out"
        )
    for axis, columns in (("x", _X), ("y", _Y), ("z", _Z)):
        try:
            value = float(line[columns])
        except ValueError:
            raise InputError(
                f"structure: expected the coordinate {axis} in columns {columns.start + 1} to "
                f"{columns.stop} of {where}, got {line[columns]!r}"
            ) from None
        if not math.isfinite(value):
            raise InputError(
                f"structure: {where} has coordinates that are not finite numbers ({axis} = {value})"
            )
    symbol = line[_ELEMENT].strip()
    if symbol.isalpha() and symbol.upper() not in elements:
        raise InputError(
            f"structure: expected an element in columns 77 and 78 of {where}, got {symbol!r}"
        )


def _of_mmcif(path: Path, text: str) -> Iterator[_Record]:
    """Atoms of the first model in the first data block of an mmCIF file."""
    if "_atom_site." not in text:
        if "_atom_site_" in text:
            raise InputError(
                f"structure: {path} is a CIF of crystallography (_atom_site_fract_x), expected "
                "mmCIF (_atom_site.Cartn_x): read it, for example with ASE, repeat the cell as "
                "needed, and write a PDB file"
            )
        raise InputError(f"structure: expected atoms, got none in {path}: no _atom_site of mmCIF")
    blocks: list[Any] = []
    PdbxReader(io.StringIO(text)).read(blocks)
    table = blocks[0].getObj("atom_site")
    if table is None:
        raise InputError(
            f"structure: expected atoms in the first data block of {path}, got none; leave the "
            "blocks before it out"
        )
    if len(blocks) > 1:
        logger.warning("%s has %d data blocks; the first is used", path, len(blocks))
    columns = list(table.getAttributeList())
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise InputError(
            f"structure: expected {missing[0]} among the columns of _atom_site in {path}, got "
            f"{', '.join(columns)}"
        )

    def value(row: list[str], *names: str) -> str:
        name = next((name for name in names if name in columns), None)
        return row[columns.index(name)] if name else "."

    model = None
    for row in table.getRowList():
        model = model or value(row, "pdbx_PDB_model_num")
        if value(row, "pdbx_PDB_model_num") != model:
            continue
        chain, number = value(row, "auth_asym_id"), value(row, "auth_seq_id", "label_seq_id")
        code = value(row, "pdbx_PDB_ins_code").strip("?.")
        name = value(row, "auth_atom_id", "label_atom_id")
        residue = f"{value(row, 'auth_comp_id', 'label_comp_id')} {chain}:{number}{code}"
        identity = (value(row, "label_asym_id"), chain, number, code, name)
        yield _Record(residue, name, value(row, "label_alt_id").strip("?."), identity)


def _check_names(path: Path, raised: Iterable[warnings.WarningMessage]) -> None:
    """Refuse a file of which the reader dropped atoms; raise its other warnings again."""
    for warning in raised:
        if _LOST_ATOM in str(warning.message):
            raise InputError(
                f"structure: expected a name of its own for every atom of a residue in {path}; "
                "atoms of the same name would be lost: name them C1, C2, ..."
            )
    for warning in raised:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _check_count(path: Path, records: list[_Record], number: int) -> None:
    """Warn of dropped alternate locations, and refuse to lose any other atom."""
    atoms: dict[tuple[str, ...], _Record] = {}
    residues: dict[tuple[str, ...], _Record] = {}
    dropped = []
    for record in records:
        atom = atoms.setdefault(record.identity, record)
        residue = residues.setdefault(record.identity[:-1], record)
        is_other_residue = record.location != "" and record.residue != residue.residue
        if is_other_residue or record.location != atom.location:
            dropped.append(record)
    if number != len(records) - len(dropped):
        raise InputError(
            f"structure: expected {len(records) - len(dropped)} atoms, as {path} has, got {number} "
            "from OpenMM's reader; write the file again with another program, each atom of a "
            "residue with a name of its own"
        )
    if dropped:
        names = shorten(f"{one.name} {one.location} of {one.residue}" for one in dropped)
        logger.warning(f"{path}: of alternate locations the first is used; left out: {names}")
