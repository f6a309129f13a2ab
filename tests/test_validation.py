"""A model against reference data, of which the difference is known."""

import csv
import json
from importlib.util import find_spec

import ase.io
import numpy as np
import pytest
from ase import Atoms
from helpers import DATA, DIPEPTIDE_MODEL, dipeptide, shared_file

from openmm_les import catalog
from openmm_les.analysis import validation
from openmm_les.analysis.validation import Statistics
from openmm_les.artifact import load
from openmm_les.cli import main
from openmm_les.errors import InputError, SimulationError
from openmm_les.system_model import SystemModel

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
