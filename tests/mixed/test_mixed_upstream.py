"""What openmm-ml's own tests ask of its potentials, asked of ours (default options)."""

import numpy as np
import openmm
import pytest
from openmmml import MLPotential
from support.contexts import create_context, create_system, energy_and_forces
from support.helpers import water_frame
from support.mixed import PLATFORMS, app, classical, context, energy, nonbonded, peptide_in_water

# Energies of the CPU platform [kJ/mol].
ROUNDING = 0.1


def mix(structure, system, **options) -> openmm.System:
    return MLPotential("les-demo").createMixedSystem(
        structure.topology, system, structure.peptide, **options
    )


@pytest.mark.parametrize(
    ("platform", "method", "interpolate"),
    [
        ("Reference", app.NoCutoff, True),
        ("Reference", app.PME, False),
        ("CPU", app.NoCutoff, False),
        ("CPU", app.PME, True),
    ],
)
def test_mechanical_embedding(platform, method, interpolate):
    """E = E_MM(all) - E_MM(region alone) + E_ML(region alone), and on the way to it."""
    structure = peptide_in_water()
    alone = structure.only(structure.peptide)
    if method is app.NoCutoff:
        structure, alone = structure.in_box(None), alone.in_box(None)
    everything, part = classical(structure, method), classical(alone, method)
    nonbonded(part).setUseDispersionCorrection(False)  # it stays that of all atoms
    model = MLPotential("les-demo").createSystem(alone.topology)
    all_mm = energy(context(everything, structure.positions, platform))
    part_mm = energy(context(part, alone.positions, platform))
    part_ml = energy(context(model, alone.positions, platform))
    expected = all_mm - part_mm + part_ml

    made = context(
        mix(structure, everything, interpolate=interpolate), structure.positions, platform
    )
    assert energy(made) == pytest.approx(expected, abs=ROUNDING)
    assert abs(expected - all_mm) > 10.0
    for value in (0.0, 0.25, 0.5, 0.75, 1.0) if interpolate else ():
        made.setParameter("lambda_interpolate", value)
        between = value * expected + (1.0 - value) * all_mm
        assert energy(made) == pytest.approx(between, abs=ROUNDING)


@pytest.mark.parametrize("embedding", ["mechanical", "electrostatic"])
@pytest.mark.parametrize("remove", [False, True])
def test_constraints(remove, embedding):
    """Those between ML atoms go if they are to go; all others stay, and none is new."""
    structure = peptide_in_water()
    system = classical(structure, constraints=app.AllBonds, rigidWater=True)
    inside = set(structure.peptide)
    made = mix(structure, system, removeConstraints=remove, embedding=embedding)

    def constraints(each):
        return {
            frozenset(each.getConstraintParameters(i)[:2]) for i in range(each.getNumConstraints())
        }

    gone = {pair for pair in constraints(system) if pair <= inside}
    assert len(gone) == 21
    assert constraints(made) == constraints(system) - (gone if remove else set())


@pytest.mark.parametrize("options", [{}, {"embedding": "electrostatic"}])
def test_ends_of_the_interpolation(options):
    """The force field's and the mixed System's energies, to 1e-5."""
    structure = peptide_in_water()
    system = classical(structure, ewaldErrorTolerance=5e-4)
    systems = [system, mix(structure, system, **options)]
    systems.append(mix(structure, system, interpolate=True, **options))
    plain, fixed, made = (context(each, structure.positions, "CPU") for each in systems)
    assert energy(made) == pytest.approx(energy(fixed), rel=1e-5)
    made.setParameter("lambda_interpolate", 0)
    assert energy(made) == pytest.approx(energy(plain), rel=1e-5)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_box_that_is_all_model_has_no_origin(platform, water_artifact):
    """Moved as a whole, across the edges."""
    atoms = water_frame(0)
    made = create_context(create_system(water_artifact, atoms), atoms.positions, platform)
    expected, _ = energy_and_forces(made)
    for moves in (1, 2):
        made.setPositions(0.1 * atoms.positions + 0.9 * moves)
        assert energy_and_forces(made)[0] == pytest.approx(expected, abs=1e-6 * len(atoms))
    assert np.isfinite(expected)
