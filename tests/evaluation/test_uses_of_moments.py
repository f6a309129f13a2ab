"""Models with moments through ASE, `inspect`, checks of scripts, and what warns."""

import pickle
import re

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from openmm_les_export.charge_sign import charge_sign
from support.gradients import system_for
from support.moments import moments_artifact, two_waters

from openmm_les.ase import LESCalculator
from openmm_les.cli import main

pytestmark = pytest.mark.usefixtures("moments_family")
FIELD = (0.11, -0.07, 0.05)


@pytest.fixture(scope="module")
def saved(moments_family, tmp_path_factory):
    return moments_artifact("all", tmp_path_factory.mktemp("moments") / "m.les.pt", charge_sign=-1)


@pytest.mark.parametrize("periodic", [False, True])
def test_ase(saved, periodic):
    atoms = two_waters(periodic)
    model = system_for(saved, atoms)
    response, result = model.response(atoms.positions), model.evaluate(atoms.positions)
    atoms.calc = pickle.loads(pickle.dumps(LESCalculator(saved.path)))
    np.testing.assert_allclose(atoms.get_charges(), result.charges, atol=1e-12)
    expected = {
        "dipoles": response.dipoles,
        "quadrupoles": -result.moments.quadrupoles,
        "polarizability": response.polarizability,
        "born_effective_charges": response.born_charges,
    }
    if not periodic:
        expected["dipole"] = response.dipole
    for name, values in expected.items():
        np.testing.assert_allclose(atoms.calc.get_property(name, atoms), values, atol=1e-12)


def test_ase_in_a_field(saved):
    atoms = two_waters(periodic=False)
    response = system_for(saved, atoms).response(atoms.positions)
    for convention in ("consistent", "original"):
        model = system_for(saved, atoms, electric_field=True, fieldConvention=convention)
        expected = model.evaluate(atoms.positions, None, FIELD)
        options = {"electric_field": FIELD, "field_convention": convention}
        atoms.calc = LESCalculator(saved.path, **options)
        np.testing.assert_allclose(atoms.get_forces(), expected.forces, atol=1e-12)
        energy = expected.energy + model.reference_energy
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-11)
        induced = response.polarizability @ FIELD
        np.testing.assert_allclose(atoms.get_dipole_moment(), response.dipole + induced, atol=1e-12)


def test_properties_are_those_of_the_model(tmp_path, water_artifact):
    permanent = moments_artifact("permanent", tmp_path / "m.les.pt")
    calculator, of_charges = LESCalculator(permanent.path), LESCalculator(water_artifact)
    assert {"dipoles", "quadrupoles"} <= set(calculator.implemented_properties)
    assert "polarizability" not in calculator.implemented_properties
    assert "dipoles" not in of_charges.implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("polarizability", two_waters(periodic=False))


def test_inspect(saved, capsys):
    with pytest.raises(SystemExit):
        main(["inspect", str(saved.path)])
    wanted = r"^moments +charges, dipoles, quadrupoles, charge response \(kappa\), anisotropic pol"
    assert re.search(wanted, capsys.readouterr().out, re.MULTILINE)


def test_smooth_cutoff(saved, caplog):
    atoms = two_waters(periodic=True)
    smooth = system_for(saved, atoms, lesCutoff="smooth").evaluate(atoms.positions)
    hard = system_for(saved, atoms).evaluate(atoms.positions)
    assert abs(smooth.energy - hard.energy) > 1e-4
    assert f"by {smooth.energy - hard.energy:+.6f} eV" in caplog.text


def test_the_sign_is_that_of_the_dipole_of_a_molecule():
    """Dipoles of atoms against their charges decide where they are larger."""
    artifact = moments_artifact("dipoles", charge_sign=None)
    water = Atoms("OHH", [(0.0, 0.0, 0.0), (0.759, 0.0, 0.588), (-0.759, 0.0, 0.588)])
    state = artifact.canonical.state
    factors = state["moment_factors"]
    found = []
    for size in (-100.0, 1.0, 100.0):
        state["moment_factors"] = factors.clone()
        state["moment_factors"][2] *= size
        result = system_for(artifact, water).evaluate(water.positions)
        dipole = (result.charges - result.charges.mean()) @ water.positions
        dipole = dipole + result.moments.dipoles.sum(0)
        assert charge_sign(artifact) == np.sign(dipole[2])
        found.append(np.sign(dipole[2]))
    assert len(set(found)) == 2
