"""`LESCalculator`: totals, derivatives, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.optimize import BFGS
from support.helpers import dipeptide, water_frame

from openmm_les import ArtifactError, InputError, SimulationError
from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator


def with_calculator(atoms, path, **options) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = LESCalculator(path, **options)
    return atoms


@pytest.mark.parametrize("periodic", [True, False])
def test_portable_module_of_the_file_gives_the_same(water_artifact, periodic):
    """The artifact alone, through its own forward, is the reference for what is built from it."""
    torch = pytest.importorskip("torch")
    atoms = water_frame(0)
    atoms.pbc = periodic
    atoms = with_calculator(atoms, water_artifact, precision="double")
    module = artifacts.build_module(artifacts.load(water_artifact).canonical, "float64")
    with torch.no_grad():
        energy, forces, charges = module(
            torch.tensor(atoms.positions),
            torch.tensor(atoms.numbers),
            torch.tensor(atoms.cell.array),
            periodic,
        )
    assert atoms.get_potential_energy() == pytest.approx(float(energy), abs=1e-9 * len(atoms))
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-8)
    np.testing.assert_allclose(atoms.get_charges(), charges, atol=1e-9)


def test_without_ase():
    code = "import sys; sys.modules['ase'] = None; import openmm_les.ase"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.endswith("the calculator needs ASE: pip install 'openmm-les[ase]'\n")


def test_energy_holds_the_isolated_atoms(dipeptide_artifact):
    lone = with_calculator(Atoms("O", positions=[[0, 0, 0]]), dipeptide_artifact)
    far = with_calculator(Atoms("OO", positions=[[0, 0, 0], [0, 0, 500]]), dipeptide_artifact)
    canonical = artifacts.load(dipeptide_artifact).canonical
    oxygen = canonical.hyper["elements"].index(8)
    reference = float(canonical.state["reference_energies"][oxygen])
    assert abs(lone.get_potential_energy() - reference) < 50  # of hundreds to thousands
    assert abs(far.get_potential_energy() - 2 * lone.get_potential_energy()) < 0.1


def test_forces_are_the_gradient(dipeptide_artifact):
    atoms = with_calculator(dipeptide(0), dipeptide_artifact)
    forces = atoms.get_forces()
    step = 1e-4
    for atom, axis in ((0, 0), (5, 1), (9, 2)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions[atom, axis] += sign * step
            energies.append(moved.get_potential_energy())
        numerical = (energies[1] - energies[0]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(numerical, rel=1e-6, abs=1e-6)


def test_stress_is_the_strain_derivative(water_artifact):
    """Central differences of the energy, for a sheared cell."""
    atoms = water_frame(0)
    shear = np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0.03], [0, 0, 0.01]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    atoms = with_calculator(atoms, water_artifact)
    stress = atoms.get_stress(voigt=False)
    step = 1e-5
    for i, j in ((0, 0), (1, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = atoms.copy()
            strained.calc = atoms.calc
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(strained.get_potential_energy())
        numerical = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert stress[i, j] == pytest.approx(numerical, rel=1e-5, abs=1e-8)
    np.testing.assert_allclose(stress, stress.T, atol=1e-10)


def test_single_precision(water_artifact):
    exact = with_calculator(water_frame(0), water_artifact)
    single = with_calculator(water_frame(0), water_artifact, precision="single")
    number = len(exact)
    difference = single.get_potential_energy() - exact.get_potential_energy()
    assert 0 < abs(difference) < 1e-6 * number
    np.testing.assert_allclose(single.get_forces(), exact.get_forces(), atol=1e-4)
    np.testing.assert_allclose(single.get_charges(), exact.get_charges(), atol=1e-5)


def test_one_calculator_serves_many_structures(water_artifact):
    """Other atoms, another box, no box: the model follows, as a new calculator would."""
    shared = LESCalculator(water_artifact, max_neighbors=2)
    box, cluster = water_frame(0), water_frame(0)[:60]
    cluster.pbc = False
    swollen = box.copy()
    swollen.set_cell(box.cell.array * 1.25, scale_atoms=True)
    for structure in (box, cluster, swollen, box):
        got, expected = structure.copy(), with_calculator(structure, water_artifact)
        got.calc = shared
        tolerance = 1e-9 * len(got)
        assert got.get_potential_energy() == pytest.approx(
            expected.get_potential_energy(), abs=tolerance
        )
        np.testing.assert_allclose(got.get_forces(), expected.get_forces(), atol=1e-8)


def test_optimisation(dipeptide_artifact):
    atoms = with_calculator(dipeptide(0), dipeptide_artifact)
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.5, steps=10)
    assert atoms.get_potential_energy() < before


def test_results_are_kept_for_an_unchanged_structure(dipeptide_artifact):
    atoms = with_calculator(dipeptide(0), dipeptide_artifact)
    atoms.get_potential_energy()
    forces = atoms.calc.results["forces"]
    assert atoms.calc.get_property("forces", atoms) is not None
    assert atoms.calc.results["forces"] is forces


@pytest.mark.parametrize("pbc", [(True, True, False), (False, False, True)])
def test_partial_periodicity_is_refused(water_artifact, pbc):
    atoms = water_frame(0)
    atoms.pbc = pbc
    with pytest.raises(InputError, match=r"pbc: expected all three directions periodic or none"):
        with_calculator(atoms, water_artifact).get_potential_energy()


def test_periodic_structure_needs_a_cell(water_artifact):
    atoms = water_frame(0)
    atoms.cell[2] = 0
    with pytest.raises(InputError, match=r"cell: expected three independent lattice vectors"):
        with_calculator(atoms, water_artifact).get_potential_energy()


def test_left_handed_cell_is_refused(water_artifact):
    atoms = water_frame(0)
    atoms.cell[0] *= -1
    with pytest.raises(InputError, match=r"cell: expected a right-handed box"):
        with_calculator(atoms, water_artifact).get_potential_energy()


def test_molecule_has_no_stress(dipeptide_artifact):
    atoms = with_calculator(dipeptide(0), dipeptide_artifact)
    with pytest.raises(PropertyNotImplementedError, match=r"stress: the structure is not periodic"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_potential_energy())


def test_structures_without_an_energy(dipeptide_artifact):
    atoms = with_calculator(dipeptide(0), dipeptide_artifact)
    atoms.positions[0, 0] = np.nan
    with pytest.raises(SimulationError, match=r"positions or box vectors are NaN"):
        atoms.get_potential_energy()
    atoms = with_calculator(dipeptide(0), dipeptide_artifact)
    atoms.positions[1] = atoms.positions[0]
    with pytest.raises(SimulationError, match=r"two atoms are at the same place"):
        atoms.get_potential_energy()


def test_wrong_arguments(water_artifact, tmp_path):
    with pytest.raises(
        InputError, match=r"precision: expected 'single' or 'double', got 'float32'"
    ):
        LESCalculator(water_artifact, precision="float32")
    with pytest.raises(ArtifactError, match=r"nothing\.les\.pt does not exist"):
        LESCalculator(tmp_path / "nothing.les.pt")
    gold = Atoms("Au2", positions=[[0, 0, 0], [0, 0, 3]])
    with pytest.raises(
        InputError, match=r"the model knows H, C, N, O, but the structure has Au \(atoms 0, 1\)"
    ):
        with_calculator(gold, water_artifact).get_potential_energy()


def test_properties_by_the_names_of_ase(water_artifact):
    """Drivers of other packages ask for several at once; results of our own are not among them."""
    atoms = water_frame(0)
    atoms.calc = LESCalculator(water_artifact, precision="double")
    found = atoms.get_properties(["energy", "forces", "stress"])
    assert found["energy"] == atoms.get_potential_energy()
    np.testing.assert_array_equal(found["forces"], atoms.get_forces())
    assert "les_energy" not in found
    assert "les_energy" in atoms.calc.results
