"""The choice of the periodic sum, seen from OpenMM and ASE."""

import logging

import numpy as np
import openmm
import pytest
import torch
from support.contexts import PLATFORMS, create_context, create_system, energy_and_forces
from support.helpers import water_frame

from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator
from openmm_les.electrostatics import DirectEwald, MeshEwald
from openmm_les.errors import InputError
from openmm_les.evaluation.system_model import SystemModel


def relative(got, expected) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def les_forces(artifact, atoms, **options) -> np.ndarray:
    """Size of the long-range forces alone, by which the tolerance is defined [eV/A]."""
    model = SystemModel(artifact, atoms.numbers, periodic=True, cell=atoms.cell.array, **options)
    charges = model.evaluate(atoms.positions).charges
    kernel = model.module.electrostatics
    tensors = (torch.tensor(x) for x in (charges, atoms.positions, atoms.cell.array))
    return kernel(*tensors)[2].numpy()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_mesh_in_a_context(water_artifact, platform):
    """Forces differ by the tolerance, and the option survives XML."""
    atoms = water_frame(0)
    results = {}
    for ewald in ("direct", "mesh"):
        system = create_system(water_artifact, atoms, ewald=ewald)
        system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
        results[ewald] = energy_and_forces(create_context(system, atoms.positions, platform))
    (energy, forces), (exact_energy, exact_forces) = results["mesh"], results["direct"]
    # Where a charge responds to the potential its error counts as well: some 1e-5 eV/A.
    assert 1e-7 < np.abs(forces - exact_forces).max() < 1e-4
    assert abs(energy - exact_energy) < 1e-6 * len(atoms)


def test_every_tolerance_is_kept(water_artifact):
    artifact, atoms = artifacts.load(water_artifact), water_frame(0)
    exact = les_forces(artifact, atoms, ewald="direct")
    errors = []
    for tolerance in (1e-3, 1e-4, 1e-5):
        forces = les_forces(artifact, atoms, ewald="mesh", ewaldTolerance=tolerance)
        errors.append(relative(forces, exact))
        assert errors[-1] < tolerance
    assert errors == sorted(errors, reverse=True)


def test_small_systems_take_the_exact_sum(water_artifact):
    atoms = water_frame(0)
    artifact = artifacts.load(water_artifact)

    def chosen(**options):
        model = SystemModel(
            artifact, atoms.numbers, periodic=True, cell=atoms.cell.array, **options
        )
        return model.module.electrostatics.original_name

    assert chosen() == DirectEwald.__name__
    assert chosen(ewald="mesh") == MeshEwald.__name__


@pytest.mark.parametrize("ewald", ["direct", "mesh"])
def test_stress_is_the_strain_derivative_of_the_energy(water_artifact, ewald):
    atoms = water_frame(1)
    atoms.calc = LESCalculator(water_artifact, ewald=ewald, ewald_tolerance=1e-5)
    stress = atoms.get_stress(voigt=False)
    box, step = atoms.cell.array.copy(), 2e-4
    for a, b in ((0, 0), (1, 2)):
        energies = []
        for h in (-2 * step, -step, step, 2 * step):
            deformation = np.eye(3)
            deformation[a, b] += 0.5 * h
            deformation[b, a] += 0.5 * h
            atoms.set_cell(box @ deformation, scale_atoms=True)
            energies.append(atoms.get_potential_energy())
        atoms.set_cell(box, scale_atoms=True)
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
        assert slope / atoms.get_volume() == pytest.approx(stress[a, b], abs=2e-7)


@pytest.mark.parametrize("ewald", ["direct", "mesh"])
def test_a_box_beyond_the_buffers_gets_new_ones(water_artifact, ewald, caplog):
    atoms = water_frame(0)
    context = create_context(create_system(water_artifact, atoms, ewald=ewald), atoms.positions)
    for volume, outgrown in ((1.14, False), (0.86, False), (1.7, True), (0.8, True)):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * volume ** (1 / 3), scale_atoms=True)
        context.setPeriodicBoxVectors(*(scaled.cell.array * 0.1))
        context.setPositions(scaled.positions * 0.1)
        with caplog.at_level(logging.INFO):
            caplog.clear()
            got = energy_and_forces(context)
        assert ("outgrown its buffers" in caplog.text) is outgrown
        fresh = create_system(water_artifact, scaled, ewald=ewald)
        expected = energy_and_forces(create_context(fresh, scaled.positions))
        assert abs(got[0] - expected[0]) < 2e-6 * len(atoms)
        np.testing.assert_allclose(got[1], expected[1], atol=1e-4, rtol=0)


@pytest.mark.torchforce
@pytest.mark.parametrize("ewald", ["direct", "mesh"])
@pytest.mark.filterwarnings("ignore:backend='torchforce'")
def test_torchforce_stops_and_names_the_way_out(water_artifact, ewald):
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, ewald=ewald, backend="torchforce")
    context = create_context(system, atoms.positions)
    python = create_context(create_system(water_artifact, atoms, ewald=ewald), atoms.positions)
    for got, expected in zip(energy_and_forces(context), energy_and_forces(python), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)
    context.setPeriodicBoxVectors(*(atoms.cell.array * 0.12))
    with pytest.raises(openmm.OpenMMException, match="or use backend='pythonforce', which"):
        energy_and_forces(context)


def test_smooth_cutoff_tells_its_difference_once(water_artifact, caplog):
    atoms = water_frame(0)
    energies = {}
    for cutoff in ("hard", "smooth"):
        system = create_system(
            water_artifact, atoms, lesCutoff=cutoff, ewald="direct", precision="double"
        )
        context = create_context(system, atoms.positions)
        with caplog.at_level(logging.WARNING):
            energies[cutoff] = energy_and_forces(context)[0]
            energy_and_forces(context)
    told = [r for r in caplog.records if "lesCutoff='smooth'" in r.getMessage()]
    assert len(told) == 1
    difference = energies["smooth"] - energies["hard"]
    assert abs(difference) > 1e-3
    assert f"by {difference:+.6f} eV" in told[0].getMessage()


def test_constant_pressure_on_a_mesh(water_artifact):
    """The barostat's trial boxes and the accepted ones have energies of their own."""
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, ewald="mesh", lesCutoff="smooth")
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 2)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = create_context(system, atoms.positions, "Reference", integrator)
    integrator.step(40)
    state = context.getState(positions=True, energy=True)
    box = np.array(state.getPeriodicBoxVectors()._value)
    assert abs(box[0, 0] / (0.1 * atoms.cell.array[0, 0]) - 1) > 1e-4
    atoms.set_cell(box * 10)
    atoms.positions = state.getPositions(asNumpy=True)._value * 10
    fresh = create_system(water_artifact, atoms, ewald="mesh", lesCutoff="smooth")
    energy, _ = energy_and_forces(create_context(fresh, atoms.positions, "Reference"))
    assert energy * 96.48533 == pytest.approx(state.getPotentialEnergy()._value, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ewald": "mesh", "ewaldTolerance": 1e-6}, "single precision reaches 1e-05 on a mesh"),
        ({"ewaldtolerance": 1e-4}, "did you mean ewaldTolerance"),
    ],
)
def test_wrong_options_are_named(water_artifact, options, message):
    with pytest.raises(InputError, match=message):
        create_system(water_artifact, water_frame(0), **options)


def test_open_systems_have_no_mesh(dipeptide_artifact):
    from support.helpers import dipeptide

    with pytest.raises(InputError, match="for periodic systems, and this one is not"):
        create_system(dipeptide_artifact, dipeptide(0), ewald="mesh")
