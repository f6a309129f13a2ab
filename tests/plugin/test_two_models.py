"""Several models in one System: of different atoms they add up, of the same atoms they are refused.

The oracle is the sum of what each region alone changes in the force field's energy.
"""

import openmm
import pytest
from support.contexts import add_forces
from support.mixed import (
    app,
    classical,
    context,
    embedded,
    energy,
    mixed,
    peptide,
    peptide_in_water,
)

from openmm_les import InputError, catalog


def energy_of(system, structure, value=None) -> float:
    made = context(system, structure.positions, "CPU")
    if value is not None:
        made.setParameter("lambda_interpolate", value)
    return energy(made)


@pytest.mark.parametrize(
    ("method", "bonded"), [(app.NoCutoff, True), (app.PME, False), (app.LJPME, True)], ids=str
)
def test_regions_that_do_not_overlap_add_up(method, bonded):
    """In either order; also where one cut bond has a link atom at both of its ends."""
    structure = peptide_in_water()
    system = classical(structure, method)
    first = structure.side_chain
    second = structure.atoms("CA", "HA") if bonded else structure.waters(2)
    alone = [energy_of(mixed(structure, system, atoms), structure) for atoms in (first, second)]
    expected = sum(alone) - energy_of(system, structure)
    for one, other in ((first, second), (second, first)):
        both = mixed(structure, mixed(structure, system, one), other)
        # The CPU platform adds in single precision.
        assert energy_of(both, structure) == pytest.approx(expected, abs=1e-2)


@pytest.mark.parametrize("makers", [(embedded, mixed), (mixed, embedded), (mixed, mixed)])
def test_lambda_moves_all_regions(makers):
    structure = peptide_in_water()
    system = classical(structure)
    regions = (structure.side_chain, structure.waters(2))
    both = system
    for make, atoms in zip(makers, regions, strict=True):
        both = make(structure, both, atoms, interpolate=True)
    force_field = energy_of(system, structure)
    alone = [
        energy_of(make(structure, system, atoms), structure)
        for make, atoms in zip(makers, regions, strict=True)
    ]
    assert energy_of(both, structure, 0.0) == pytest.approx(force_field, abs=1e-2)
    change = sum(alone) - 2 * force_field
    assert energy_of(both, structure, 0.5) == pytest.approx(force_field + change / 2, abs=1e-2)


@pytest.mark.parametrize("interpolate", [False, True])
@pytest.mark.parametrize("method", [app.NoCutoff, app.PME], ids=str)
@pytest.mark.parametrize("make", [mixed, embedded])
def test_the_same_region_twice_is_refused(make, method, interpolate):
    """A cell of a notebook that is run again; also if the regions only share an atom."""
    structure = peptide_in_water()
    system = classical(structure, method)
    once = make(structure, system, structure.side_chain, interpolate=interpolate)
    message = (
        r"no model describes the chosen atoms yet, got the force 'LES' on {} of them \(atom 12 "
    )
    for atoms, number in (
        (structure.side_chain, 4),
        ([structure.side_chain[0], *structure.waters(1)], 1),
    ):
        with pytest.raises(InputError, match=message.format(number)):
            make(structure, once, atoms, interpolate=interpolate)


@pytest.mark.torchforce
@pytest.mark.filterwarnings("ignore:backend='torchforce'.*:UserWarning")
@pytest.mark.parametrize("kept", [(), ("LES",)])
def test_after_a_torchforce_no_region_is_told_from_another(kept):
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    made = mixed(structure, system, structure.peptide, backend="torchforce")
    with pytest.raises(InputError, match=r"^system: expected no model in a TorchForce, got the fo"):
        mixed(structure, made, structure.peptide, keepForces=kept)


def test_a_second_region_among_charges_is_refused():
    """Latent charges that follow the geometry would feel only those of the force field there."""
    structure = peptide_in_water()
    once = embedded(structure, classical(structure), structure.side_chain)
    with pytest.raises(InputError, match=r"expected one region among MM charges, got a System"):
        embedded(structure, once, structure.waters(2))


def test_a_system_of_a_model_is_no_force_field():
    structure = peptide()
    system = classical(structure, app.NoCutoff)
    path = catalog.artifact_path("les-demo")
    atoms = structure.side_chain
    add_forces(system, path, structure.topology, structure.peptide[:12])
    add_forces(system, path, structure.topology, atoms)
    with pytest.raises(InputError, match=r"got the force 'LES' on 4 of them \(particle 12, "):
        add_forces(system, path, structure.topology, atoms)
    with pytest.raises(InputError, match=r"got the force 'LES' on 4 of them \(atom 12 \(CB "):
        mixed(structure, system, atoms)


def other_model(state):
    """Stands for a model of openmm-ml."""
    positions = state.getPositions(asNumpy=True)
    return 0.0, 0.0 * positions


def test_models_of_openmmml_are_models(monkeypatch):
    """A PythonForce of somebody else is a restraint, and stays."""
    structure = peptide()
    refused, kept = (classical(structure, app.NoCutoff) for _ in range(2))
    kept.addForce(openmm.PythonForce(other_model))
    mixed(structure, kept, structure.side_chain)
    monkeypatch.setattr(other_model, "__module__", "openmmml.models.macepotential")
    import openmmml.models.macepotential as module

    monkeypatch.setattr(module, "other_model", other_model, raising=False)
    refused.addForce(openmm.PythonForce(other_model))
    with pytest.raises(InputError, match=r"got the force 'PythonForce' on 4 of them"):
        mixed(structure, refused, structure.side_chain)
