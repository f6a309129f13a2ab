"""OpenMM's kernels for GPUs, run on a CPU: the same energies and forces as the Reference platform.

OpenMM's OpenCL platform shares its kernels with the CUDA platform, and runs wherever there is an
OpenCL device, such as a CPU with the package pocl. The minimiser is left out: it ends the process
on that device without this package, too.
"""

from functools import cache

import ase.build
import numpy as np
import openmm
import pytest
from openmmml import MLPotential
from support.contexts import add_forces, empty_system
from support.contexts import context_of_gpu_kernels as context
from support.helpers import topology_from_atoms
from support.mixed import (
    METHODS,
    app,
    bare,
    classical,
    energy,
    forces,
    mixed,
    nonbonded,
    peptide_in_water,
)

from openmm_les import catalog

pytestmark = pytest.mark.opencl

#: Largest difference of energies [kJ/mol] and forces [kJ/mol/nm] of 750 atoms from the Reference
#: platform. In single and mixed precision positions and the force field are float32; in double
#: what is left is that of the force field by itself, whose constants and meshes differ.
ALLOWED = {"single": (0.5, 5.0), "mixed": (0.5, 5.0), "double": (0.03, 0.2)}
PRECISIONS = list(ALLOWED)


def assert_as_on_reference(system, positions, precision="double", parameters=None) -> None:
    """Energy and forces of a System."""
    results = []
    for each in (precision, None):
        made = context(system, positions, each)
        for name, value in (parameters or {}).items():
            made.setParameter(name, value)
        results.append((energy(made), forces(made)))
    (got, got_forces), (expected, expected_forces) = results
    per_energy, per_force = ALLOWED[precision]
    real = [i for i in range(system.getNumParticles()) if not system.isVirtualSite(i)]
    assert got == pytest.approx(expected, abs=per_energy)
    np.testing.assert_allclose(got_forces[real], expected_forces[real], rtol=0, atol=per_force)


@cache
def force_field_system(method, water="tip3p"):
    system = classical(peptide_in_water(water), method, water)
    nonbonded(system).setUseDispersionCorrection(False)
    return system


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("periodic", [False, True])
def test_pure_ml(precision, periodic):
    structure = peptide_in_water()
    alone = structure.only(structure.peptide)
    alone = alone.in_box([[2.1, 0, 0], [0.2, 2.0, 0], [-0.3, 0.1, 1.9]] if periodic else None)
    system = MLPotential("les-demo").createSystem(alone.topology, precision="double")
    assert_as_on_reference(system, alone.positions, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_part_of_a_system(precision):
    waters = ase.build.molecule("H2O") + ase.build.molecule("CH3CH2OH")
    waters.positions[3:] += [4.0, 0, 0]
    waters.set_cell(np.eye(3) * 18.0)
    waters.pbc = True
    system = empty_system(waters)
    path = catalog.artifact_path("les-demo")
    chosen = [3 + i for i in (7, 3, 0, 1, 2, 4, 5, 6, 8)]
    add_forces(system, path, topology_from_atoms(waters), chosen, precision="double")
    assert_as_on_reference(system, waters.positions * 0.1, precision)


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_embeddings_with_every_nonbonded_method(method, embedding, interpolate):
    structure = peptide_in_water()
    options = {"embedding": embedding, "interpolate": interpolate}
    if embedding == "electrostatic":
        options["chargeTolerance"] = 1.0
    system = mixed(structure, force_field_system(method), structure.peptide, **options)
    parameters = {"lambda_interpolate": 0.4} if interpolate else {}
    assert_as_on_reference(system, structure.positions, parameters=parameters)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_virtual_sites_and_link_atoms(precision):
    """Water with virtual sites around a side chain whose link atom is a virtual site."""
    structure = peptide_in_water("tip4pew")
    system = mixed(
        structure,
        force_field_system(app.PME, "tip4pew"),
        structure.side_chain,
        linkAtoms="virtual",
    )
    added = system.getNumParticles() - len(structure.positions)
    positions = np.concatenate([structure.positions, np.zeros((added, 3))])
    assert added == 1
    assert_as_on_reference(system, positions, precision)


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
def test_constant_pressure(embedding):
    """The box changes on the platform, and the model sees the new one."""
    structure = peptide_in_water()
    options = {"chargeTolerance": 1.0} if embedding == "electrostatic" else {}
    system = mixed(
        structure,
        force_field_system(app.PME),
        structure.peptide,
        embedding=embedding,
        **options,
    )
    barostat = openmm.MonteCarloBarostat(3000.0, 300.0, 1)
    barostat.setRandomNumberSeed(1)
    system.addForce(barostat)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0002)
    integrator.setRandomNumberSeed(1)
    made = context(system, structure.positions, "double", integrator)
    made.setVelocitiesToTemperature(300.0, 1)
    integrator.step(12)
    state = made.getState(positions=True)
    box = bare(state.getPeriodicBoxVectors())
    assert np.linalg.det(box) != pytest.approx(
        np.linalg.det(bare(structure.topology.getPeriodicBoxVectors())), rel=1e-4
    )
    expected = context(system, state.getPositions(asNumpy=True)._value)
    expected.setPeriodicBoxVectors(*box)
    np.testing.assert_allclose(forces(made), forces(expected), rtol=0, atol=ALLOWED["double"][1])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_a_number_stops(precision):
    """This platform would turn NaN forces into large numbers; the force raises before."""
    structure = peptide_in_water().only(peptide_in_water().peptide).in_box(None)
    system = MLPotential("les-demo").createSystem(structure.topology)
    made = context(system, structure.positions, precision)
    assert np.isfinite(energy(made))
    made.setPositions(structure.positions * np.nan)
    with pytest.raises(openmm.OpenMMException, match="NaN"):
        forces(made)
