"""The examples run, in a short mode, and leave behind what they say."""

import ast
import csv
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from openmm import app
from support import mixed
from support.programs import run_program

from openmm_les import free_energy

pytestmark = pytest.mark.documents
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PNG = b"\x89PNG\r\n"

can_draw = find_spec("matplotlib") is not None and find_spec("mdtraj") is not None


def run(name, *arguments, folder, status=0) -> str:
    """Run an example in an empty folder; returns what it printed."""
    done = run_program(EXAMPLES / name, *arguments, folder=folder)
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def rows(path) -> list[list[str]]:
    with open(path, newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if not row[0].startswith("#")]


def numbers(text) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def test_every_example_is_in_the_list():
    listed = set(re.findall(r"\]\((\d\d_\w+\.py)\)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES.glob("[0-9]*.py")}


@pytest.mark.parametrize("own_model", [False, True])
def test_md_of_a_peptide(tmp_path, dipeptide_artifact, own_model):
    model = ["--model", dipeptide_artifact] if own_model else []
    out = run("01_md_of_a_peptide.py", *model, "--steps", 100, "--output", "out", folder=tmp_path)
    assert "100 %" in out
    assert "ns/day" in out
    assert len(rows(tmp_path / "out" / "energies.csv")) == 5
    assert (tmp_path / "out" / "trajectory.xtc").stat().st_size > 0
    if can_draw:
        assert (tmp_path / "out" / "picture.png").read_bytes().startswith(PNG)
        assert "phi and psi" in out
    else:
        assert "pip install 'openmm-les[examples]'" in out


def test_md_says_what_to_do_next(tmp_path):
    """The commands it prints are there to be copied: the first of them runs."""
    out = run("01_md_of_a_peptide.py", "--steps", 20, folder=tmp_path)
    hints = out[out.index("Next:") :].splitlines()[1:]
    assert {Path(hint.split()[0]).name for hint in hints} == {"openmm-les", "python"}
    command, path = next(hint.split()[1:3] for hint in hints if "inspect" in hint)
    assert command == "inspect"
    assert (tmp_path / path).exists()


def test_md_without_matplotlib_still_runs(tmp_path):
    """A module of that name that cannot be imported stands for one that is not installed."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "examples" / "matplotlib.py").write_text("raise ImportError")
    done = subprocess.run(
        [sys.executable, "examples/01_md_of_a_peptide.py", "--steps", "20"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'openmm-les[examples]'" in done.stdout
    assert not (tmp_path / "demo-output" / "picture.png").exists()


def test_examples_name_the_extra_of_what_they_lack(tmp_path):
    """In one line: what the package can do without is imported in a `try` that says so."""
    needed = {
        "numpy",
        "openmm",
        "openmmml",
        "openmm_les",
        "openmm_les_export",
        "pictures",
        "torch",
        "yaml",
    }
    for path in EXAMPLES.glob("*.py"):
        names = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module)
            elif isinstance(node, ast.Try):
                text = r"This needs \w+: pip install 'openmm-les\[examples\]'"
                assert re.search(text, ast.unparse(node.handlers[0])), path.name
        assert "openmm_les.ase" not in names
        assert {name.partition(".")[0] for name in names} <= needed | sys.stdlib_module_names

    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "examples" / "ase.py").write_text("raise ModuleNotFoundError('no', name='ase')")
    error = subprocess.run(
        [sys.executable, "examples/05_charges_and_dipoles_with_ase.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    assert error == "This needs ASE: pip install 'openmm-les[examples]'\n"


def test_md_without_its_model_says_what_to_give(tmp_path):
    error = run("01_md_of_a_peptide.py", "--model", "none.model", folder=tmp_path, status=1)
    assert "none.model does not exist. Give a trained MACE-LES model" in error


def test_export_your_own_model(tmp_path):
    out = run("02_export_your_own_model.py", "--steps", 20, folder=tmp_path)
    assert (tmp_path / "example-output" / "les-demo.les.pt").stat().st_size > 100_000
    in_openmm, in_ase = (numbers(line)[0] for line in out.splitlines() if "in the file" in line)
    assert in_openmm == pytest.approx(in_ase, abs=1e-3)
    relaxed = next(numbers(line)[0] for line in out.splitlines() if "relaxed in" in line)
    assert relaxed < in_ase


def test_water_at_constant_pressure(tmp_path):
    out = run("03_npt_water_box.py", "--waters", 20, "--steps", 60, folder=tmp_path)
    assert "Density (g/mL)" in out
    _, energy, temperature, density, _ = rows(tmp_path / "example-output" / "water.csv")[-1]
    assert float(energy) < 0
    assert 50 < float(temperature) < 600
    assert 0.5 < float(density) < 1.5


def test_peptide_in_water(tmp_path):
    out = run("04_peptide_in_water_ml_mm.py", "--padding", 0.7, "--steps", 20, folder=tmp_path)
    assert "22 atoms by the model" in out
    total, inside = numbers(out.splitlines()[-2])
    assert total < inside < 0
    structure = (tmp_path / "example-output" / "peptide_in_water.pdb").read_text()
    assert "HOH" in structure
    assert "ALA" in structure


def test_charges_and_dipoles(tmp_path):
    out = run("05_charges_and_dipoles_with_ase.py", "--points", 12, folder=tmp_path)
    table = [[float(value) for value in row] for row in rows(tmp_path / "example-output/dimer.csv")]
    assert min(energy for _, energy, *_ in table) < -15  # the hydrogen bond [kJ/mol]
    for distance, energy, coulomb, _, oxygen, _ in table:
        assert oxygen < 0
        if distance > 6:  # beyond the network, the charges are all there is
            assert energy == pytest.approx(coulomb, abs=1e-3)
    assert ("dimer.png" in out) == (find_spec("matplotlib") is not None)


def test_side_chain_with_a_link_atom(tmp_path):
    out = run("06_ml_sidechain_link_atoms.py", "--steps", 4, folder=tmp_path)
    assert "PHE17: 14 atoms and one link atom by the model" in out
    inside, bond = numbers(out[out.index("Inside") :])
    assert -10000 < inside < -8000  # relative to isolated atoms
    assert 1.3 < bond < 1.8
    structure = (tmp_path / "example-output" / "side_chain.pdb").read_text()
    assert structure.count("MODEL ") == 4
    assert "PHE" in structure


@pytest.mark.skipif(find_spec("openmmtools") is None, reason="needs the data of openmmtools")
@pytest.mark.parametrize(
    "embedding", ["mechanical", pytest.param("electrostatic", marks=pytest.mark.slow)]
)
def test_ligand_in_its_protein(tmp_path, embedding):
    options = ["--embedding", embedding, "--padding", 0.3, "--minimize", 5, "--steps", 4]
    out = run("07_ml_ligand_in_protein.py", *options, folder=tmp_path)
    assert "18 atoms by the model" in out
    inside, moved = numbers(out[out.index("By the model") :])[:2]
    assert -12500 < inside < -10000  # relative to isolated atoms
    assert 0 < moved < 1
    structure = (tmp_path / "example-output" / "lysozyme.pdb").read_text()
    atoms = re.findall(r"^(?:ATOM|HETATM).{11}(\w+)", structure, re.MULTILINE)
    assert atoms.count("TMP") == 18 * structure.count("MODEL ")
    assert "HOH" not in atoms


def test_embeddings_compared(tmp_path):
    options = ["--padding", 0.7, "--steps", 20, "--frames", 2]
    out = run("08_peptide_in_water_electrostatic.py", *options, folder=tmp_path)
    folder = tmp_path / "example-output"
    frames = rows(folder / "embeddings.csv")
    assert [frame[0] for frame in frames] == ["mechanical"] * 2 + ["electrostatic"] * 2
    for _, _, *values in frames:
        by_force_field, by_model, *dipoles = map(float, values)
        assert -400 < by_force_field < 0
        assert -400 < by_model < 0
        assert all(0.5 < dipole < 12 for dipole in dipoles)
    charges = {name: list(map(float, values)) for name, *values in rows(folder / "charges.csv")}
    assert len(charges) == 22
    assert charges["ACE O"][0] == -0.5679  # Amber's
    assert charges["ACE O"][1] < -0.2
    for column in range(2):
        total = sum(values[column] for values in charges.values())
        assert total == pytest.approx(0.0, abs=1e-4)
    assert ("embeddings.png" in out) == (find_spec("matplotlib") is not None)


def test_infrared_spectrum(tmp_path):
    options = ["--steps", 400, "--equilibration", 40]
    out = run("10_ir_spectrum_of_a_peptide.py", *options, folder=tmp_path)
    folder = tmp_path / "example-output"
    modes = np.array(rows(folder / "peptide_vibrations.csv"), dtype=float)
    assert len(modes) == 3 * 22 - 6
    assert 20 < modes[0, 0] < modes[-1, 0] < 4000
    assert (modes[:, 1] >= 0).all()
    assert 200 < modes[:, 1].sum() < 3000
    assert len(rows(folder / "peptide.csv")) == 100
    assert "No water" in out
    assert ("infrared.png" in out) == (find_spec("matplotlib") is not None)


def test_polarizable_peptide(tmp_path):
    options = ["--padding", 0.7, "--steps", 20, "--frames", 2]
    out = run("11_polarizable_peptide_in_water.py", *options, folder=tmp_path)
    folder = tmp_path / "example-output"
    table = np.array(rows(folder / "polarization.csv"), dtype=float)
    assert table.shape == (2, 5)
    _, alone, induced, together, gained = table.T
    assert ((alone > 0.5) & (alone < 12)).all()
    assert ((induced > 0.01) & (induced < 5)).all()
    assert (np.abs(together - alone) <= induced + 1e-9).all()
    assert (np.abs(gained) < 100).all()
    assert "The water induces" in out
    assert ("polarization.png" in out) == (find_spec("matplotlib") is not None)


def test_random_charges(tmp_path):
    """Charges that OpenMM computed energies and forces from are found again, up to their sign."""
    options = ["--particles", 32, "--structures", 1, 2]
    out = run("13_random_charges.py", *options, folder=tmp_path)
    folder = tmp_path / "example-output"
    true, exact, disturbed, _ = np.array(rows(folder / "random_charges.csv"), dtype=float).T
    assert sorted(true) == [-1.0] * 16 + [1.0] * 16
    np.testing.assert_allclose(exact, true, atol=1e-3)
    np.testing.assert_allclose(disturbed, true, atol=0.2)
    table = {(kind, int(n)): list(map(float, rest)) for kind, n, *rest in
             rows(folder / "learning.csv")}  # fmt: skip
    rms, largest, _, forces, _ = table["exact forces", 2]
    assert rms == pytest.approx(np.sqrt(np.mean((exact - true) ** 2)))
    assert largest == pytest.approx(np.abs(exact - true).max())
    assert forces < 2e-3  # eV/A, of structures that it did not learn from
    assert 20 * rms < table["forces +- 0.1 eV/A", 2][0]
    assert table["energies alone", 2][0] > 0.5  # two energies do not determine 32 charges
    assert ("random_charges.png" in out) == (find_spec("matplotlib") is not None)


@pytest.mark.skipif(find_spec("pymbar") is None, reason="needs pymbar (extra `examples`)")
def test_free_energy_of_the_model(tmp_path):
    for package in ("distributed", "matplotlib", "pymbar"):
        pytest.importorskip(package)
    options = ["--padding", 0.7, "--windows", 2, "--steps", 60, "--interval", 5, "--workers", 2]
    out = run("09_mm_to_mlmm_free_energy.py", *options, folder=tmp_path)
    assert out.startswith("4 of 4 runs finished\nalanine: water ")
    table = rows(tmp_path / "example-output" / "free-energy" / "windows.csv")
    assert [row[:3] for row in table] == [
        ["alanine", leg, value] for leg in ("water", "vacuum") for value in ("0.0", "1.0")
    ]
    for _, mbar, error, by_bar, integrated, _ in (row[5:] for row in table if row[2] == "1.0"):
        assert 0 < float(error) < 30
        assert float(mbar) == pytest.approx(float(by_bar), abs=0.01)
        assert float(mbar) == pytest.approx(float(integrated), abs=30)
    correction, error, *_ = numbers(out[out.index("The model changes") :])
    assert abs(correction) < 80
    assert 0 < error < 40


@pytest.mark.skipif(find_spec("openmmtools") is None, reason="needs the data of openmmtools")
def test_series_of_ligands(tmp_path):
    """One of the ligands in both legs, as the settings of the series have it but for the times."""
    for package in ("distributed", "matplotlib", "pymbar"):
        pytest.importorskip(package)
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    folder = tmp_path / "examples" / "ligand-series"
    script = tmp_path / "examples" / "12_series_of_ligands.py"
    options = ["--ligands", "benzene", "--padding", 0.1, "--iterations", 40, "--steps", 0]
    out = run(script, *options, folder=tmp_path)
    assert "benzene-complex.pdb: " in out
    assert_same_terms(folder / "ligands.xml")

    settings = tmp_path / "examples" / "ligand_series.yaml"
    given = yaml.safe_load(settings.read_text())
    assert [*given["ligands"]] == ["benzene", "toluene", "p-xylene"]
    given["base"] |= {"steps": 16, "equilibration_steps": 0, "report_interval": 2}
    given |= {"windows": 2, "ligands": {"benzene": given["ligands"]["benzene"]}}
    settings.write_text(yaml.safe_dump(given))
    found = free_energy.run(settings, tmp_path / "out", workers=2)
    assert found.windows.failures == {}
    (benzene,) = found.results
    assert [leg.name for leg in benzene.legs] == ["complex", "solvent"]
    for leg in benzene.legs:
        np.testing.assert_allclose(leg.estimate.overlap.sum(axis=1), 1.0)
        assert leg.estimate.by_bar[-1] == pytest.approx(leg.estimate.difference, abs=0.01)
    assert abs(benzene.correction) < 200
    page = (tmp_path / "out" / "free-energies.html").read_text()
    assert page.count("how likely samples") == 4  # a caption and a description for each leg


def assert_same_terms(xml) -> None:
    """Every term of the ligands' energies is that of their prmtop files."""
    data = Path(find_spec("openmmtools").origin).parent / "data"
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml", str(xml))
    for name in ("benzene-toluene-implicit/receptor", "benzene-toluene-implicit/solvent",
                 "T4-lysozyme-L99A-implicit/ligand"):  # fmt: skip
        prmtop = app.AmberPrmtopFile(str(data / f"{name}.prmtop"))
        positions = app.PDBFile(str(data / f"{name}.pdb")).getPositions(asNumpy=True)
        noise = np.random.default_rng(0).normal(scale=0.01, size=positions.shape)
        energies = []
        for system in (prmtop.createSystem(), field.createSystem(prmtop.topology)):
            for group, force in enumerate(system.getForces()):
                force.setForceGroup(group)
            made = mixed.context(system, positions._value + noise)
            energies.append(
                {f.getName(): mixed.energy(made, {f.getForceGroup()}) for f in system.getForces()}
            )
        assert energies[0]["PeriodicTorsionForce"] > 1.0
        assert energies[0] == pytest.approx(energies[1], abs=1e-5)
