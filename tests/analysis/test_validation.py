"""A model against reference data, of which the difference is known."""

import csv
import json
import os
from importlib.util import find_spec

import ase.io
import numpy as np
import pytest
from ase import Atoms
from support.helpers import DATA, DIPEPTIDE_MODEL, dipeptide, shared_file
from support.programs import run_code

from openmm_les import catalog
from openmm_les.analysis import validation
from openmm_les.analysis.validation import Statistics
from openmm_les.artifact import load
from openmm_les.ase import LESCalculator
from openmm_les.cli import main
from openmm_les.errors import InputError, SimulationError
from openmm_les.evaluation.system_model import SystemModel

SHIFTS = {1: 0.3, 6: -1.2, 7: 2.0, 8: 0.7}  # eV
NOISE = 0.02


@pytest.fixture(scope="module")
def artifact():
    return load(catalog.artifact_path("les-demo"))


def command(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["validate", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def labelled(artifact) -> list[Atoms]:
    """Structures whose labels differ from the model in a known way.

    Energies by one number for each element, forces by NOISE with random signs, dipoles by a factor
    of 0.8; Born effective charges not at all.
    """
    water = Atoms("OHH", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    formamide = Atoms(
        "OCNHHH",
        [[0, 0, 0], [1.2, 0, 0], [1.9, 1.15, 0], [1.8, -0.9, 0], [2.9, 1.1, 0], [1.4, 2.0, 0.1]],
    )
    corners = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    methane = Atoms("CHHHH", 0.63 * corners)
    generator = np.random.default_rng(0)
    structures, models = [], {}
    for start in (formamide, water, methane, water, methane):
        atoms = start.copy()
        atoms.positions += generator.normal(scale=0.02, size=atoms.positions.shape)
        if str(atoms.symbols) not in models:
            models[str(atoms.symbols)] = SystemModel(
                artifact, atoms.numbers, periodic=False, precision="double"
            )
        model = models[str(atoms.symbols)]
        result, response = model.evaluate(atoms.positions), model.response(atoms.positions)
        shift = sum(SHIFTS[z] for z in atoms.numbers)
        atoms.info["REF_energy"] = result.energy + model.reference_energy + shift
        signs = generator.choice([-1.0, 1.0], size=result.forces.shape)
        atoms.arrays["REF_forces"] = result.forces + NOISE * signs
        atoms.info["REF_dipole"] = 0.8 * response.dipole
        atoms.arrays["REF_bec"] = response.born_charges.reshape(-1, 9)
        structures.append(atoms)
    return structures


@pytest.fixture(scope="module")
def structures(artifact):
    return labelled(artifact)


@pytest.fixture
def data(tmp_path, structures):
    path = tmp_path / "data.xyz"
    ase.io.write(path, structures, format="extxyz")
    return path


def by_name(result) -> dict[str, Statistics]:
    return {row.quantity: row for row in result.statistics()}


def test_known_differences_are_found(artifact, data):
    result = validation.validate(artifact, validation.read_frames(data))
    rows = by_name(result)
    assert rows["energy per atom"].rmse > 100
    assert rows["energy per atom, shifted"].rmse == pytest.approx(0.0, abs=1e-3)
    assert rows["forces"].rmse == pytest.approx(1e3 * NOISE, rel=1e-4)
    assert rows["forces"].mae == pytest.approx(1e3 * NOISE, rel=1e-4)
    assert rows["forces"].number == 3 * sum(len(frame.numbers) for frame in result.frames)
    assert rows["dipole"].slope == pytest.approx(1 / 0.8, rel=1e-5)
    assert rows["Born charges"].rmse < 1e-7
    assert rows["Born charges"].r2 == pytest.approx(1.0, abs=1e-9)


def test_statistics_are_those_of_numpy():
    generator = np.random.default_rng(1)
    reference = generator.normal(size=200)
    model = 0.7 * reference + 0.3 + 0.1 * generator.normal(size=200)
    row = Statistics.of("x", "e", reference, model)
    slope, intercept = np.polyfit(reference, model, 1)
    assert row.slope == pytest.approx(slope)
    assert row.bias == pytest.approx(slope * reference.mean() + intercept - reference.mean())
    # Of the straight line, R2 would be the squared correlation; of model = reference it is less.
    assert row.r2 < np.corrcoef(reference, model)[0, 1] ** 2
    line = Statistics.of("x", "e", model, slope * reference + intercept)
    assert line.r2 == pytest.approx(np.corrcoef(reference, model)[0, 1] ** 2)
    assert np.isnan(Statistics.of("x", "e", np.ones(3), np.ones(3)).r2)


def test_born_charges_in_the_other_order(artifact, structures, tmp_path, caplog):
    path = tmp_path / "transposed.xyz"
    for_file = [atoms.copy() for atoms in structures]
    for atoms in for_file:
        born = atoms.arrays["REF_bec"].reshape(-1, 3, 3)
        atoms.arrays["REF_bec"] = born.transpose(0, 2, 1).reshape(-1, 9)
    ase.io.write(path, for_file, format="extxyz")
    wrong = validation.validate(artifact, validation.read_frames(path))
    assert "the Born effective charges of the reference fit better transposed" in caplog.text
    caplog.clear()
    right = validation.validate(artifact, validation.read_frames(path, born_axes="rP"))
    assert not caplog.text
    assert by_name(wrong)["Born charges"].rmse > 0.01 > by_name(right)["Born charges"].rmse


def test_what_the_reference_lacks_is_left_out(artifact, structures, tmp_path):
    path = tmp_path / "partial.xyz"
    first, second = structures[0].copy(), structures[1].copy()
    del first.info["REF_dipole"], first.arrays["REF_bec"]
    del second.info["REF_energy"], second.arrays["REF_forces"], second.arrays["REF_bec"]
    ase.io.write(path, [first, second], format="extxyz")
    result = validation.validate(artifact, validation.read_frames(path))
    rows = by_name(result)
    assert set(rows) == {"energy per atom", "energy per atom, shifted", "forces", "dipole"}
    assert rows["energy per atom"].number == 1
    assert rows["dipole"].number == 3
    table = list(csv.DictReader(result.to_csv().splitlines()))
    assert table[0]["dipole model X (e A)"] == ""
    assert table[1]["energy model (eV)"] == ""
    assert float(table[0]["force RMSE (meV/A)"]) == pytest.approx(1e3 * NOISE, rel=1e-4)


def test_other_names(artifact, structures, tmp_path):
    path = tmp_path / "names.xyz"
    atoms = structures[1].copy()
    atoms.info = {"e_hf": atoms.info["REF_energy"]}
    atoms.arrays["grad"] = atoms.arrays.pop("REF_forces")
    ase.io.write(path, atoms, format="extxyz")
    frames = validation.read_frames(path, keys={"energy": "e_hf", "forces": "grad"})
    assert frames[0].energy == atoms.info["e_hf"]
    np.testing.assert_allclose(frames[0].forces, atoms.arrays["grad"], atol=1e-7)
    with pytest.raises(InputError, match=r"reference values \(energy_dft\), got .*e_hf"):
        validation.read_frames(path, keys={"energy": "energy_dft"})


def test_periodic_structures_have_no_dipole(artifact, structures, tmp_path):
    path = tmp_path / "box.xyz"
    atoms = structures[1].copy()
    atoms.set_cell([12.0, 12.0, 12.0])
    atoms.pbc = True
    ase.io.write(path, atoms, format="extxyz")
    result = validation.validate(artifact, validation.read_frames(path))
    assert "dipole" not in by_name(result)
    assert by_name(result)["Born charges"].number == 27
    assert result.frames[0].cell is not None


def test_dft_dipoles_and_born_charges_are_reproduced(exported, caplog):
    """Dipeptides of SPICE, of which the model has learned energies and forces alone."""
    path = shared_file(DATA / "spice_dipeptides_val.xyz")
    artifact = load(exported(DIPEPTIDE_MODEL))
    caplog.clear()  # of the export, where it could not be verified
    frames = validation.read_frames(path, born_axes="rP", limit=4)
    rows = by_name(validation.validate(artifact, frames))
    assert not caplog.text
    assert rows["dipole"].r2 > 0.97
    assert rows["Born charges"].r2 > 0.92
    assert 0.9 < rows["Born charges"].slope < 1.1
    assert rows["forces"].rmse < 60


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda atoms: atoms.info.update(REF_dipole=[1.0, 2.0]), r"REF_dipole of shape \(3,\)"),
        (lambda atoms: atoms.info.update(REF_energy=float("nan")), "finite numbers for REF_energy"),
        (lambda atoms: atoms.set_pbc((True, True, False)), "all three directions periodic or none"),
    ],
)
def test_wrong_values(structures, tmp_path, make, message):
    atoms = structures[1].copy()
    atoms.set_cell([20, 20, 20])
    make(atoms)
    ase.io.write(tmp_path / "wrong.xyz", atoms, format="extxyz")
    with pytest.raises(InputError, match=message):
        validation.read_frames(tmp_path / "wrong.xyz")


def test_wrong_files(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent\.xyz: No such file"):
        validation.read_frames(tmp_path / "absent.xyz")
    (tmp_path / "broken.xyz").write_text("3\ncomment\nO 0 0\n")
    with pytest.raises(InputError, match="not a file that ASE reads"):
        validation.read_frames(tmp_path / "broken.xyz")
    ase.io.write(tmp_path / "bare.xyz", dipeptide(0))
    with pytest.raises(InputError, match=r"expected reference values .*--energy-key"):
        validation.read_frames(tmp_path / "bare.xyz")
    for wrong in ({"born_axes": "ab"}, {"limit": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            validation.read_frames(tmp_path / "bare.xyz", **wrong)


def test_a_structure_that_the_model_cannot_describe_is_named(artifact, structures):
    frames = [
        validation.Frame(tuple(atoms.numbers), atoms.positions.copy(), None, energy=0.0)
        for atoms in structures[1:3]
    ]
    salt = validation.Frame((11, 17), np.array([[0, 0, 0], [2.4, 0, 0]]), None, energy=0.0)
    with pytest.raises(InputError, match="structure 1: atoms: the model knows H, C, N, O"):
        validation.validate(artifact, [frames[0], salt])
    frames[1].positions[0] = frames[1].positions[1]
    with pytest.raises(SimulationError, match="structure 0: two atoms are at the same place"):
        validation.validate(artifact, [frames[1]])


def test_command(capsys, tmp_path, data):
    output = tmp_path / "report"
    status, out, _ = command(capsys, "les-demo", data, "-o", output)
    assert status == 0
    head, *body = out.splitlines()
    assert head.split() == ["RMSE", "MAE", "bias", "unit", "R2", "slope", "values"]
    forces = next(line for line in body if line.startswith("forces")).split()
    assert forces[1] == "20"
    assert "5 structures, 22 atoms" in out
    rows = list(csv.DictReader((output / "frames.csv").read_text().splitlines()))
    assert [row["formula"] for row in rows][:3] == ["C1H3N1O1", "H2O1", "C1H4"]
    assert json.loads((output / "statistics.json").read_text())["structures"] == 5
    if find_spec("matplotlib"):
        assert (output / "parity.png").read_bytes().startswith(b"\x89PNG")
    status, _, err = command(capsys, "les-demo", data, "-o", output)
    assert status == 2
    assert "frames.csv, statistics.json" in err


def test_command_prints_json(capsys, data):
    status, out, _ = command(capsys, "les-demo", data, "--limit", 2, "--json")
    assert status == 0
    names = [row["quantity"] for row in json.loads(out)["statistics"]]
    assert names[0] == "energy per atom"
    assert "Born charges" in names


def test_command_with_a_model_that_does_not_exist(capsys, data):
    status, _, err = command(capsys, "les-dmeo", data)
    assert status == 2
    assert err.count("\n") == 1
    assert "did you mean les-demo?" in err


# ------------------------------------------------------------------ units, keys, stress


def by_the_model(artifact, atoms) -> Atoms:
    """The structure with total energy, forces and, in a box, stress of the model, by ASE."""
    atoms = atoms.copy()
    atoms.calc = LESCalculator(artifact.path)
    atoms.info["REF_energy"] = atoms.get_potential_energy()
    atoms.arrays["REF_forces"] = atoms.get_forces()
    if atoms.pbc.all():
        atoms.info["REF_stress"] = atoms.get_stress(voigt=False)
    atoms.calc = None
    return atoms


@pytest.fixture(scope="module")
def boxes(artifact) -> list[Atoms]:
    one = Atoms("OHH", [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]], cell=[9, 9, 10], pbc=True)
    two = one.copy()
    two.positions += [3.0, 0.4, 0.2]
    found = []
    for seed in range(9):
        both = one + two
        both.rattle(0.05, seed=seed)
        found.append(by_the_model(artifact, both))
    return found


def test_stress_is_compared(artifact, boxes, tmp_path):
    """Nine numbers, or six in the order of ASE; those of molecules mean nothing."""
    path = tmp_path / "boxes.xyz"
    frames = [atoms.copy() for atoms in boxes[:3]]
    frames[1].info["REF_stress"] = frames[1].info["REF_stress"].ravel()[[0, 4, 8, 5, 2, 1]]
    frames[2].info["REF_stress"] = frames[2].info["REF_stress"] + 0.01 * np.eye(3)
    ase.io.write(path, frames, format="extxyz")
    result = validation.validate(artifact, validation.read_frames(path))
    row = by_name(result)["stress"]
    assert row.number == 27
    assert row.rmse == pytest.approx(10.0 / 3, rel=1e-4)  # of 3 in 27, 10 meV/A^3
    table = list(csv.DictReader(result.to_csv().splitlines()))
    assert [float(each["stress RMSE (meV/A^3)"]) for each in table] == pytest.approx(
        [0.0, 0.0, 10.0 / 3**0.5], abs=1e-4
    )
    frames[0].pbc = False
    ase.io.write(path, frames[0], format="extxyz")
    assert "stress" not in by_name(validation.validate(artifact, validation.read_frames(path)))


KCAL, KJ = 23.060548, 96.485332
HARTREE, BOHR = 27.211386, 0.52917721


@pytest.mark.parametrize(
    ("quantity", "factor", "unit"),
    [
        ("forces", KCAL, "kcal/mol/A"),
        ("forces", KJ, "kJ/mol/A"),
        ("forces", 10 * KJ, "kJ/mol/nm"),
        ("forces", 1 / HARTREE, "Hartree/A"),
        ("forces", BOHR / HARTREE, "Hartree/Bohr"),
        ("forces", -1.0, "eV/A with the other sign, such as gradients"),
        ("forces", -BOHR / HARTREE, "Hartree/Bohr with the other sign, such as gradients"),
        ("energy", KCAL, "kcal/mol"),
        ("energy", KJ, "kJ/mol"),
        ("energy", 1 / HARTREE, "Hartree"),
        ("stress", 160.21766, "GPa"),
        ("stress", 1602.1766, "kbar"),
        ("stress", -1.0, "eV/A^3 with the other sign"),
    ],
)
def test_other_units_are_named(artifact, boxes, tmp_path, caplog, quantity, factor, unit):
    path = tmp_path / "other.xyz"
    frames = [atoms.copy() for atoms in boxes]
    for atoms in frames:
        store = atoms.arrays if quantity == "forces" else atoms.info
        store[f"REF_{quantity}"] = factor * np.asarray(store[f"REF_{quantity}"])
    ase.io.write(path, frames, format="extxyz")
    validation.validate(artifact, validation.read_frames(path))
    assert len(caplog.records) == 1
    assert f"(REF_{quantity}) seems to be in {unit}, expected " in caplog.text


def test_energies_in_other_units_and_from_other_atoms(artifact, boxes, caplog):
    """As DFT has them: isolated atoms count otherwise than in the model."""
    for scale, unit in ((1.0, None), (1 / HARTREE, "Hartree")):
        frames = [
            validation.Frame(
                tuple(atoms.numbers),
                atoms.positions,
                atoms.cell.array,
                energy=scale * (atoms.info["REF_energy"] - 4000.0),
            )
            for atoms in boxes
        ]
        caplog.clear()
        validation.validate(artifact, frames)
        assert (f"seems to be in {unit}" in caplog.text) == (unit is not None)
        assert len(caplog.records) == (unit is not None)


def test_dipoles_in_debye(artifact, structures, caplog):
    frames = [
        validation.Frame(
            tuple(atoms.numbers), atoms.positions, None, dipole=6.004 * atoms.info["REF_dipole"]
        )
        for atoms in structures
    ]
    validation.validate(artifact, frames)
    assert "the dipole of the reference (dipole) seems to be in Debye, expected e A" in caplog.text


def test_a_model_with_errors_is_no_other_unit(artifact, boxes, caplog):
    """Noise as large as the values, a poor slope, or a reference that is constant."""
    generator = np.random.default_rng(3)
    for change in (lambda f: 1.3 * f, lambda f: generator.normal(size=f.shape), np.zeros_like):
        frames = [
            validation.Frame(
                tuple(atoms.numbers),
                atoms.positions,
                atoms.cell.array,
                energy=atoms.info["REF_energy"] + 3.0 + 0.1 * generator.normal(),
                forces=change(atoms.arrays["REF_forces"]),
            )
            for atoms in boxes
        ]
        validation.validate(artifact, frames)
    assert not caplog.text


@pytest.mark.parametrize(
    ("factor", "message"), [(0.1, "seems to be in nm"), (100.0, "seems to be in pm")]
)
def test_positions_in_other_units(artifact, structures, tmp_path, factor, message):
    path = tmp_path / "other.xyz"
    frames = [atoms.copy() for atoms in structures]
    for atoms in frames:
        atoms.positions *= factor
    ase.io.write(path, frames, format="extxyz")
    with pytest.raises(InputError, match=f"expected positions in A, .*{message}"):
        validation.validate(artifact, validation.read_frames(path))


@pytest.mark.parametrize(("factor", "unit"), [(1 / BOHR, "in Bohr"), (10.0, "in another unit")])
def test_positions_that_are_too_large(artifact, structures, caplog, factor, unit):
    frames = [
        validation.Frame(tuple(a.numbers), a.positions * factor, None, energy=0.0)
        for a in structures
    ]
    validation.validate(artifact, frames)
    assert f"the positions seem to be {unit}, expected A" in caplog.text


def test_what_may_be_a_reference_is_told(boxes, tmp_path, caplog):
    path = tmp_path / "names.xyz"
    atoms = boxes[0].copy()
    atoms.arrays["my_forces"] = atoms.arrays.pop("REF_forces")
    atoms.info["virial"] = atoms.info.pop("REF_stress")
    atoms.info["temperature"] = 300.0
    ase.io.write(path, atoms, format="extxyz")
    frames = validation.read_frames(path)
    assert "my_forces is not compared, since it has none of the names of forces" in caplog.text
    assert "pass --forces-key" in caplog.text
    assert "virial is not compared" in caplog.text
    assert frames[0].keys == {"energy": "REF_energy"}
    assert set(frames[0].unused) == {"my_forces", "virial", "temperature"}
    assert "temperature" not in caplog.text


def test_command_says_what_it_compared(capsys, tmp_path, boxes):
    data, output = tmp_path / "data.xyz", tmp_path / "report"
    atoms = boxes[0].copy()
    atoms.info["step"] = 7
    atoms.arrays["forces"] = 0.0 * atoms.arrays["REF_forces"]
    ase.io.write(data, atoms, format="extxyz")
    status, out, _ = command(capsys, "les-demo", data, "-o", output)
    assert status == 0
    assert f"data          {data}" in out
    assert "les-demo.les.pt, sha256" in out
    assert "forces (eV/A): REF_forces; stress (eV/A^3): REF_stress" in out
    about = json.loads((output / "statistics.json").read_text())
    assert about["data"] == [str(data)]
    assert about["model"]["sha256"] == load(catalog.artifact_path("les-demo")).sha256
    assert about["keys"]["forces"] == ["REF_forces"]
    assert {"step", "forces"} <= set(about["not compared"])


# ------------------------------------------------------------------ files


def test_no_input_is_replaced(capsys, tmp_path, data):
    """Nor is anything written into the directory of one, by whatever name it goes."""
    folder = tmp_path / "folder"
    folder.mkdir()
    inside = folder / "data.xyz"
    inside.write_bytes(data.read_bytes())
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(folder)
    os.link(data, other / "frames.csv")
    content = data.read_bytes()
    for path, output in ((inside, folder), (inside, tmp_path / "link"), (data, other)):
        status, _, err = command(capsys, "les-demo", path, "-o", output, "--overwrite")
        assert status == 2
        assert err.count("\n") == 1
        assert "DATA reads" in err
    assert (other / "frames.csv").read_bytes() == content
    assert [each.name for each in folder.iterdir()] == ["data.xyz"]


def test_report_on_a_full_disk_is_one_line(tmp_path, data):
    output = tmp_path / "report"
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700));"
        "from openmm_les.cli import main; main()"
    )
    arguments = "validate", "les-demo", data, "-o", output, "--limit", 1
    done = run_code(code, *arguments, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot write" in done.stderr
    assert "MB free" in done.stderr
    assert not list(output.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1000000000\n\nO 0 0 0\n", "structure 0: expected 1000000000 atoms, got 1 lines"),
        ("1\nx=1\nO 0 0 0\n5\nx=1\nO 0 0 0\n", "structure 1: expected 5 atoms, got 1 lines"),
        (
            "1\nProperties=species:S:1:pos:R:3:x:R:999999999\nO 0 0 0\n",
            "expected 1000000003 columns, as its properties say, got 4",
        ),
        ('1\nREF_energy="warm"\nO 0 0 0\n', "expected numbers for REF_energy, got 'warm'"),
    ],
)
def test_files_that_claim_what_they_do_not_hold(tmp_path, text, message):
    path = tmp_path / "claims@home.xyz"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        validation.read_frames(path)
