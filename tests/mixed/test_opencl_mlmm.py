"""Interpolated Systems on OpenMM's kernels for GPUs, run on a CPU: as on the Reference platform."""

import numpy as np
import openmm
import pytest
from support.contexts import context_of_gpu_kernels as context
from support.mixed import (
    app,
    classical,
    embedded,
    energy,
    forces,
    mixed,
    nonbonded,
    peptide_in_water,
)

pytestmark = pytest.mark.opencl

#: Energies [kJ/mol] and forces [kJ/mol/nm] of 650 atoms: the force field alone differs by a fifth
#: of that in double precision.
ENERGY, FORCE = 0.02, 0.2
NAME = "lambda_interpolate"


def force_field(structure, method) -> openmm.System:
    system = classical(structure, method)
    nonbonded(system).setUseDispersionCorrection(False)
    return system


def both(system, positions) -> list[openmm.Context]:
    """Contexts on the OpenCL platform, and on Reference."""
    return [context(system, positions, precision) for precision in ("double", None)]


def assert_same(contexts) -> None:
    got, expected = contexts
    assert energy(got) == pytest.approx(energy(expected), abs=ENERGY)
    np.testing.assert_allclose(forces(got), forces(expected), rtol=0, atol=FORCE)


@pytest.mark.parametrize("method", [app.Ewald, app.PME], ids=str)
@pytest.mark.parametrize("make", [mixed, embedded])
def test_lambda(make, method):
    """The kernel of Ewald sums takes the charges of the first NonbondedForce of a Context."""
    structure = peptide_in_water()
    system = make(structure, force_field(structure, method), structure.side_chain, interpolate=True)
    contexts = both(system, structure.positions)
    for value in (0.5, 0.0):
        for each in contexts:
            each.setParameter(NAME, value)
        assert_same(contexts)


def test_several_forces_with_images():
    """Charges in two NonbondedForces, each with what is to be subtracted."""
    structure = peptide_in_water()
    system = force_field(structure, app.PME)
    one = nonbonded(system)
    other = openmm.XmlSerializer.clone(one)
    for i in range(one.getNumParticles()):
        charge, sigma, epsilon = one.getParticleParameters(i)
        one.setParticleParameters(i, 0.25 * charge, sigma, epsilon)
        other.setParticleParameters(i, 0.5 * charge, sigma, 0.0)
    for i in range(one.getNumExceptions()):
        first, second, product, sigma, epsilon = one.getExceptionParameters(i)
        one.setExceptionParameters(i, first, second, 0.25**2 * product, sigma, epsilon)
        other.setExceptionParameters(i, first, second, 0.5**2 * product, sigma, 0.0)
    system.addForce(other)
    assert_same(both(mixed(structure, system, structure.side_chain), structure.positions))


def test_two_regions_and_the_derivative():
    structure = peptide_in_water()
    system = force_field(structure, app.Ewald)
    for make, atoms in ((mixed, structure.side_chain), (mixed, structure.waters(2))):
        system = make(structure, system, atoms, interpolate=True)
    contexts = both(system, structure.positions)
    slopes = []
    for each in contexts:
        each.setParameter(NAME, 0.5)
        state = each.getState(parameterDerivatives=True)
        slopes.append(state.getEnergyParameterDerivatives()[NAME])
    assert_same(contexts)
    assert slopes[0] == pytest.approx(slopes[1], abs=ENERGY)
