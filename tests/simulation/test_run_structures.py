"""Structure files of all kinds: read right, to the last atom, or refused with the reason."""

import gzip
import io

import ase.build
import ase.io
import numpy as np
import pytest
from openmm import app
from support.runs import PEPTIDE

from openmm_les import InputError
from openmm_les.simulation.structures import hydrogens
from openmm_les.simulation.structures.distances import nearest_pair
from openmm_les.simulation.structures.structure import read_structure

TEXT = PEPTIDE.read_text()
LINES = TEXT.splitlines(keepends=True)
#: Without its REMARK the file begins with an atom.
ATOMS_FIRST = "".join(LINES[1:])
CRYST = "CRYST1{:>9}{:>9}{:>9}  90.00  90.00  90.00 P 1           1\n"


def mmcif():
    pdb, text = app.PDBFile(str(PEPTIDE)), io.StringIO()
    app.PDBxFile.writeFile(pdb.topology, pdb.positions, text)
    return text.getvalue()


def read(folder, content, name="a.pdb"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_structure(path)


def edited(change):
    """The peptide with `change` applied to every atom line; None leaves one out."""
    lines = (change(x) if x.startswith(("ATOM", "HETATM")) else x for x in LINES)
    return "".join(line for line in lines if line is not None)


def scaled(factor):
    def change(line):
        numbers = (float(line[i : i + 8]) * factor for i in (30, 38, 46))
        return line[:30] + "".join(f"{number:8.3f}" for number in numbers) + line[54:]

    return edited(change)


def name(line):
    return line[12:16].strip()


@pytest.mark.parametrize("text", [ATOMS_FIRST, mmcif()], ids=["pdb", "mmcif"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-32"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: (
            text.replace("\n", "\nREMARK Ångström\n", 1).encode("latin-1")
            if text.startswith("HETATM")
            else text.replace("# Created", "# Ångström").encode("latin-1")
        ),
    ],
    ids=["mark", "utf-16", "utf-32", "crlf", "cr", "latin-1"],
)
def test_every_encoding_gives_every_atom(tmp_path, text, encode):
    got = read(tmp_path, encode(text), "a.pdb" if text is ATOMS_FIRST else "a.cif")
    expected = read_structure(PEPTIDE)
    assert [a.name for a in got.topology.atoms()] == [a.name for a in expected.topology.atoms()]
    np.testing.assert_allclose(got.positions, expected.positions, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected atoms, got an empty file .*a.pdb"),
        (" \n\n", "expected atoms, got an empty file"),
        ("<!DOCTYPE html><p>404</p>", "got a web page in .*a.pdb"),
        ("\n<html>ATOM</html>", "got a web page in .*a.pdb"),
        (gzip.compress(TEXT.encode()), r"a.pdb, which is compressed \(gzip\); unpack it first"),
        (b"\x00\x01" * 50, "got binary data in .*a.pdb"),
        (mmcif(), "a.pdb is an mmCIF file; let its name end in .cif"),
        ("water\n", "got none in .*a.pdb: no line begins with ATOM or HETATM"),
        (TEXT.lower(), "in the first six columns of line 2 of .*a.pdb, got 'hetatm'; OpenMM wou"),
        (TEXT.replace("HETATM    3", " HETATM   3"), "columns of line 4 of .*, got ' HETAT'"),
        (TEXT.replace("HETATM    3", "\ufeffHETATM   3"), "of line 4 of .*, got '.ufeffHETAT'"),
        (TEXT.replace("HETATM    3", "\u200bHETATM   3"), "of line 4 of .*, got '.u200bHETAT'"),
        (TEXT.replace("   0.059", "********", 1), "the coordinate x in columns 31 to 38 of line 2"),
        (TEXT.replace("   0.059", "     nan", 1), "line 2 of .*not finite numbers"),
        (TEXT.replace(LINES[3], LINES[3][:40] + "\n"), "coordinate y in .* line 4 of"),
        (TEXT.replace("           O", "          Qx"), "an element in columns .*line 7 .*'Qx'"),
        (
            edited(lambda x: f"{x[:12]} X{x[9:11]}{x[16:76]}\n"),
            r"element of .* got none for atom 1",
        ),
        (CRYST.format("nan", "30.000", "30.000") + TEXT, "a box in CRYST1 of .*a.pdb, got 'nan"),
        (CRYST.format("-30.000", "30.000", "30.000") + TEXT, "lengths .*A.* got '-30.000"),
        (CRYST.format("3.000", "3.000", "3.000") + TEXT, r"room for 22 atoms .* 1.2 A\^3 for each"),
        (CRYST.format("2.500", "40.000", "40.000") + TEXT, r"atom \d+ \(.*\) and atom .* apart in"),
        (scaled(0.1), r"atom \d+ \(\w+ of ALA A:2\) and atom .* are 0.1 A apart in .* not in A"),
    ],
)
def test_what_is_no_structure(tmp_path, content, message):
    with pytest.raises(InputError, match=f"^structure: .*{message}") as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected atoms, got an empty file"),
        ("<html></html>", "got a web page"),
        (TEXT, "got none in .*a.cif: no _atom_site of mmCIF"),
        (
            "data_x\n_cell_length_a 5\nloop_\n_atom_site_label\n_atom_site_fract_x\nC1 0.1\n",
            r"a CIF of crystallography \(_atom_site_fract_x\), expected mmCIF .* with ASE",
        ),
        (
            mmcif().replace("_atom_site.type_symbol", "_atom_site.x"),
            "expected type_symbol among the columns",
        ),
        (
            mmcif().replace("_atom_site.Cartn_x\n", "_atom_site.x\n"),
            "expected Cartn_x among the columns",
        ),
        (mmcif()[: 2 * len(mmcif()) // 3], "not a valid structure: it ends too early"),
    ],
)
def test_what_is_no_mmcif(tmp_path, content, message):
    with pytest.raises(InputError, match=f"^structure: .*{message}"):
        read(tmp_path, content, "a.cif")


def test_atoms_that_the_mmcif_reader_drops(tmp_path):
    """Without label_alt_id it takes another column, and waters of one key for one water."""
    atoms = [("O", 0.0), ("H1", 0.8), ("H2", -0.8)] * 2
    head = "data_x\nloop_\n" + "".join(
        f"_atom_site.{column}\n"
        for column in ("id", "type_symbol", "label_atom_id", "label_comp_id", "label_asym_id")
        + ("label_seq_id", "auth_seq_id", "Cartn_x", "Cartn_y", "Cartn_z")
    )
    rows = "".join(
        f"{i + 1} {name[0]} {name} HOH A . {i // 3} {x} {i // 3 * 5} {0.6 * bool(x)}\n"
        for i, (name, x) in enumerate(atoms)
    )
    path = tmp_path / "lost.cif"
    path.write_text(head + rows)
    assert app.PDBxFile(str(path)).topology.getNumAtoms() < 6
    with pytest.raises(
        InputError, match=r"expected 6 atoms, as .*lost.cif has, got \d from OpenMM"
    ):
        read_structure(path)


def test_alternate_locations_are_told(tmp_path, caplog):
    def twice(line):
        if name(line) != "CB":
            return line
        return line[:16] + "A" + line[17:] + line[:16] + "B" + line[17:30] + "   1.000" + line[38:]

    got = read(tmp_path, edited(twice))
    assert got.topology.getNumAtoms() == 22
    assert (
        "a.pdb: of alternate locations the first is used; left out: CB B of ALA A:2" in caplog.text
    )


def test_a_mutation_in_an_alternate_location_is_told(tmp_path, caplog):
    def mutated(line):
        if name(line) != "HB3":
            return line
        sulphur = line[:12] + " SG BCYS" + line[20:30] + "   9.000" + line[38:76] + " S\n"
        return line + sulphur

    assert read(tmp_path, edited(mutated)).topology.getNumAtoms() == 22
    assert "left out: SG B of CYS A:2" in caplog.text


def test_guessed_elements_are_told(tmp_path, caplog):
    """Those of residues that OpenMM knows are guessed right."""
    read(tmp_path, edited(lambda line: line[:76].rstrip() + "\n"))
    assert not caplog.text
    read(tmp_path, edited(lambda line: line[:76].replace("ALA", "LIG").rstrip() + "\n"))
    assert "no elements in columns 77 and 78; guessed from the names of N of LIG A:2" in caplog.text


@pytest.mark.parametrize(
    ("atom", "message"),
    [
        ("HB2", r"expected all hydrogen atoms, got 2 of 3 on CB of ALA A:2 in .*; add them"),
        ("HA", r"got 0 of 1 on CA of ALA A:2"),
        ("H1", r"got 2 of 3 on CH3 of ACE A:1, 2 of 3 on C of NME A:3"),
        ("H", r"got 0 of 1 on N of ALA A:2, 0 of 1 on N of NME A:3"),
    ],
)
def test_one_missing_hydrogen_makes_a_radical(tmp_path, atom, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, edited(lambda line: None if name(line) == atom else line))


def test_half_a_water(tmp_path):
    water = ase.build.molecule("H2O")
    water.set_array("atomtypes", ["O", "H1", "H2"], dtype="U4")
    water.set_array("residuenames", ["HOH"] * 3, dtype="U4")
    path = tmp_path / "water.pdb"
    ase.io.write(path, water)
    assert read_structure(path).topology.getNumAtoms() == 3
    ase.io.write(path, water[:2])
    with pytest.raises(InputError, match="got 1 of 2 on O of HOH"):
        read_structure(path)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (["O"], "got none for O of ACE A:1, O of ALA A:2 in .*PDBFixer"),
        (["CB", "HB1", "HB2", "HB3"], "got none for CB of ALA A:2"),
        (["N", "H"], "got none for N of ALA A:2, N of NME A:3"),
        (["C"], "got none for C of ACE A:1, C of ALA A:2, C of NME A:3"),
    ],
)
def test_other_atoms_that_are_missing(tmp_path, atoms, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, edited(lambda line: None if name(line) in atoms else line))


def test_ends_of_chains_are_as_they_are(tmp_path):
    """Charged and neutral ends, and nucleic acids that begin with and without phosphate."""
    sequences = {"amber14/protein.ff14SB.xml": "ALA", "amber14/DNA.OL15.xml": "DA"}
    for file, residue in sequences.items():
        templates = app.ForceField(file)._templates
        for kind in (f"N{residue}", f"C{residue}", f"{residue}5", f"{residue}3", f"{residue}N"):
            if kind in templates:
                topology = app.Topology()
                made = topology.addResidue(residue, topology.addChain("A"))
                template = templates[kind]
                atoms = [topology.addAtom(a.name, a.element, made) for a in template.atoms]
                for one, other in template.bonds:
                    topology.addBond(atoms[one], atoms[other])
                hydrogens.check(tmp_path, topology, np.zeros((len(atoms), 3)), None)


def test_hydrogen_on_other_nitrogen_is_the_users_choice(tmp_path):
    """It depends on the pH."""
    topology = app.Topology()
    template = app.ForceField("amber14/protein.ff14SB.xml")._templates["NLYS"]
    made = topology.addResidue("LYS", topology.addChain("A"))
    kept = [atom for atom in template.atoms if atom.name != "HZ1"]
    atoms = {a.name: topology.addAtom(a.name, a.element, made) for a in kept}
    for bond in template.bonds:
        one, other = (template.atoms[end].name for end in bond)
        if one in atoms and other in atoms:
            topology.addBond(atoms[one], atoms[other])
    hydrogens.check(tmp_path, topology, np.zeros((len(atoms), 3)), None)


def test_an_odd_number_of_electrons_is_told(tmp_path, caplog):
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.set_array("atomtypes", [f"X{i}" for i in range(9)], dtype="U4")
    path = tmp_path / "a.pdb"
    ase.io.write(path, atoms)
    read_structure(path)
    assert not caplog.text
    ase.io.write(path, atoms[:-1])
    read_structure(path)
    assert "residue MOL 1: an odd number of electrons if neutral" in caplog.text


def test_long_bonds_are_told(tmp_path, caplog):
    """As of a residue that was moved."""

    def moved(line):
        x = float(line[30:38]) + 8.0 * (line[17:20] == "NME")
        return f"{line[:30]}{x:8.3f}{line[38:]}"

    read(tmp_path, edited(moved))
    assert "A long; lengths are in A" in caplog.text


@pytest.mark.parametrize("factor", [1 / 0.529177, 10.0])
def test_lengths_in_another_unit_are_refused(tmp_path, factor):
    with pytest.raises(InputError, match=r"expected bonds to hydrogen of about 1 A .* not in Bohr"):
        read(tmp_path, scaled(factor))


@pytest.mark.parametrize("box", [None, [[1.1, 0, 0], [0.3, 1.2, 0], [-0.4, 0.2, 1.3]]])
def test_the_nearest_pair_is_found(box):
    """Among all pairs and images, which are compared one by one."""
    generator = np.random.default_rng(5)
    box = None if box is None else np.array(box)
    images = (
        [np.zeros(3)] if box is None else np.array(list(np.ndindex(3, 3, 3))) @ box - box.sum(0)
    )
    for _ in range(20):
        positions = generator.uniform(-1.0, 2.0, (60, 3))
        apart = positions[:, None] - positions
        lengths = np.min([np.linalg.norm(apart + image, axis=-1) for image in images], axis=0)
        if box is not None:
            wrapped = positions - np.floor(positions @ np.linalg.inv(box)) @ box
            apart = wrapped[:, None] - wrapped
            lengths = np.min([np.linalg.norm(apart + image, axis=-1) for image in images], axis=0)
        np.fill_diagonal(lengths, np.inf)
        expected = lengths.min()
        found = nearest_pair(positions, box, 0.2)
        if expected >= 0.2:
            assert found is None
        else:
            assert found[2] == pytest.approx(expected)
            assert lengths[found[0], found[1]] == pytest.approx(expected)
