"""CACE with its own Ewald sum: published models against the original code, and every option."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from openmm_les_export import export, read_model
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import reference_model
from openmm_les_export.verification.probes import probe_structures
from oracles.cace_models import ENERGIES, synthetic_cace
from support.contexts import assert_same, create_context, create_system, energy_and_forces
from support.evaluation import eager, of_module
from support.gradients import check_finite_differences, system_for
from support.helpers import MODELS, atoms_of, references, shared_file
from support.reproduction import assert_reproduced

from openmm_les import artifact as artifacts
from openmm_les.ase import LESCalculator
from openmm_les.errors import ModelFileError

PREFACTOR = 90.4756  # [eV A]
#: By which the numbers of the original divide its charges in Born charges.
UNIT = 9.48933
#: Published models and the structure on which all of `SystemModel` is compared.
PUBLISHED = {
    "random_charge_rc4": 2,
    "charged_dimer_q1": 3,
    "lode_CP_q4_w0.2": 3,
    "electrolyte_rc4.5_mp1": 2,
    "water_mp0_q4": 4,
    "water_interface_mp0_q4": 2,
    "nacl_cluster": 0,
    "au2_mgo_al": 2,
    "licl_gaf3_lr0": 2,
    "pt_kf_aq": 2,
    "superionic_water_2cc_bec": 3,
    "pbtio3_phase4": 2,
    "water_bec_v4": 4,
    "water_timing_old_w0.01str": 2,
    "carbon_chain": 0,
    "water_timing_featureadd": 3,
    "au_mgo_al_leswrapper_nu2": 2,
}
#: Those with structures of up to 60 atoms, or with a shell of reciprocal vectors on the cutoff.
SMALL = [
    *("random_charge_rc4", "charged_dimer_q1", "lode_CP_q4_w0.2", "water_mp0_q4"),
    *("water_interface_mp0_q4", "nacl_cluster", "pbtio3_phase4", "water_bec_v4"),
    *("water_timing_old_w0.01str", "carbon_chain", "water_timing_featureadd"),
]
#: Weights of the electrostatics; files that are older than weights mean 1, whatever they say.
WEIGHTS = {"lode_CP_q4_w0.2": 0.2, "water_timing_old_w0.01str": 0.01}
#: Its reference stress is not the derivative of its reference energy; the energy agrees.
WRONG_STRESS = "water_timing_old_w0.01str"
WRAPPED = "au_mgo_al_leswrapper_nu2"
OLDER = {"water_mp0_q4": 0.01, "water_interface_mp0_q4": 0.02}
SIGNS = {"superionic_water_2cc_bec": -1, "water_bec_v4": 1}


def path_of(name):
    return shared_file(MODELS / "cace_ewald" / f"{name}.pth")


@cache
def energies_of(name):
    with np.load(shared_file(MODELS / "cace_ewald" / f"{name}.npz")) as data:
        if "atomic_energies_Z" not in data:
            return "zero"
        numbers, energies = data["atomic_energies_Z"], data["atomic_energies_E"]
    return dict(zip(numbers.tolist(), energies.tolist(), strict=True))


def charge_unit(name) -> float:
    """Charges in e are those of the original times this."""
    return 1.0 if name == WRAPPED else math.sqrt(WEIGHTS.get(name, 1.0) / PREFACTOR)


@cache
def known(name):
    """Numbers of the original, with charges in e, and the exact 1 / r of open systems."""
    found = references(f"cace_ewald/{name}")
    for reference in found:
        reference["latent_charges"] = reference["latent_charges"] * charge_unit(name)
        if "energy_without_epsilon" in reference:
            change = reference["energy_without_epsilon"] - reference["energy"]
            reference["les_energy"] = reference["les_energy"] + change
            reference["energy"] = reference["energy_without_epsilon"]
            reference["forces"] = reference["forces_without_epsilon"]
    return found


@cache
def model_of(name):
    return read_model(path_of(name), atomic_energies=energies_of(name))


@pytest.mark.parametrize("name", SMALL)
def test_energies_are_those_of_the_original_code(name):
    """On all small structures, and where a shell is on the cutoff: it is in, as in the training."""
    module = eager(model_of(name))
    small = [entry for entry in known(name) if len(entry["numbers"]) <= 60]
    for reference in small or [entry for entry in known(name) if "on_kc" in entry["name"]]:
        cell = reference["cell"] if reference["pbc"].any() else None
        found = of_module(module, reference["positions"], reference["numbers"], cell)
        assert_reproduced(reference, *found, "float64")


@pytest.mark.parametrize("name", PUBLISHED)
def test_system_model_is_the_original_code(name, tmp_path):
    """With stress and Born charges, and forces in single precision."""
    model, reference = model_of(name), known(name)[PUBLISHED[name]]
    artifact = artifacts.Artifact.unsaved(model, tmp_path / "x.les.pt", dtype="float64")
    n, atoms = len(reference["numbers"]), atoms_of(reference)
    system = system_for(artifact, atoms)
    got = system.evaluate(atoms.positions)
    total = got.energy + system.reference_energy
    assert_reproduced(reference, total, got.forces, got.charges, "float64")
    assert abs(got.les_energy - reference["les_energy"]) / n < 1e-9
    if "stress" in reference and name != WRONG_STRESS:
        stress = got.virial / np.linalg.det(reference["cell"])
        np.testing.assert_allclose(stress, reference["stress"], rtol=0, atol=1e-9)
    if "bec" in reference and n < 200:
        born = system.response(atoms.positions).born_charges
        factor = charge_unit(name) * UNIT * math.sqrt(model.les["bec_epsilon_factor"])
        np.testing.assert_allclose(born, factor * reference["bec"], rtol=0, atol=1e-6)
    if name in ("lode_CP_q4_w0.2", "pbtio3_phase4", "superionic_water_2cc_bec"):
        single = system_for(artifact, atoms, "single").evaluate(atoms.positions)
        assert abs(single.energy - got.energy) / n < 1e-6
        np.testing.assert_allclose(single.forces, reference["forces"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SIGNS)
def test_born_charges_of_a_file_have_its_sign_and_factor(name, tmp_path):
    """Where the box is orthorhombic; the original is wrong in others."""
    model, reference = model_of(name), known(name)[0]
    assert model.charge_sign == SIGNS[name]
    assert model.provenance["charge_sign"] == "model file"
    saved = artifacts.save(model, tmp_path / "x.les.pt", charge_sign=model.charge_sign)
    atoms = atoms_of(reference)
    born = system_for(artifacts.load(saved), atoms).response(atoms.positions).born_charges
    expected = reference["bec_file"].transpose(0, 2, 1)
    np.testing.assert_allclose(born, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OLDER)
def test_weights_that_the_training_ignored_are_not_applied(name, caplog):
    read_model(path_of(name), atomic_energies="zero")
    assert f"the weight {OLDER[name]:g} of a potential is not applied" in caplog.text


@pytest.mark.parametrize("name", ["lode_CP_q4_w0.2", "pbtio3_phase4"])
def test_the_reference_is_the_original_code(name):
    """What exports are verified with."""
    reference = reference_model(open_model(path_of(name)), model_of(name))
    entry = known(name)[PUBLISHED[name]]
    found = reference.evaluate(entry["positions"], entry["numbers"], entry["cell"])
    assert abs(found.energy - entry["energy"]) / len(entry["numbers"]) <= 1e-12
    np.testing.assert_allclose(found.forces, entry["forces"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.charges, entry["latent_charges"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "structure"), [("nacl_cluster", 0), ("pbtio3_phase4", 0)])
def test_openmm_and_ase(tmp_path, name, structure):
    """Open and periodic, from verified exports."""
    output, reference = tmp_path / "x.les.pt", known(name)[structure]
    export(path_of(name), output, atomic_energies=energies_of(name))
    assert artifacts.load(output).metadata["verification"]["status"] == "verified"
    atoms = atoms_of(reference)
    expected = float(reference["energy"]), reference["forces"]
    atoms.calc = LESCalculator(output, precision="double")
    assert_same((atoms.get_potential_energy(), atoms.get_forces()), expected)
    made = create_system(output, atoms, precision="double", returnEnergyType="energy")
    assert_same(energy_and_forces(create_context(made, atoms.positions, "Reference")), expected)


# --- synthetic models ---------------------------------------------------------------------------

COMBINED = {"container": "CombinePotential", "weight": 0.36, "lmax": 1}
ADDED = {"container": "FeatureAdd", "lmax": 1, "polarization": -0.2}


def read(path, change=None, **shape):
    made = synthetic_cace(path / "x.pth", change=change, **shape)
    return read_model(made, atomic_energies=ENERGIES)


def assert_same_model(one, other):
    assert one.hyper == other.hyper
    assert one.les == other.les
    for name, tensor in one.state.items():
        torch.testing.assert_close(other.state[name], tensor, rtol=1e-6, atol=0)


def test_forces_and_virial_are_finite_differences(tmp_path):
    """Of all kinds of messages and several charges."""
    kinds = {"messages": 2, "kinds": ("memory", "decay", "shared"), "charges": 2}
    model = read(tmp_path, **COMBINED, **kinds)
    artifact = artifacts.Artifact.unsaved(model, tmp_path / "x.les.pt", dtype="float64")
    check_finite_differences(artifact, probe_structures([1, 8], 4.0)[2], atoms=[0, 4])


def test_charges_are_in_e_with_the_same_energy(tmp_path):
    """They scale with the root of the weight, and inspect says so."""
    light, heavy = (read(tmp_path, **{**COMBINED, "weight": w}) for w in (0.25, "1.0"))
    for name in heavy.state:
        ratio = 0.5 if name in ("charge.2.weight", "charge.2.bias") else 1.0
        ratio = 0.5 if name.startswith("charge.linear") else ratio
        torch.testing.assert_close(light.state[name], ratio * heavy.state[name])
    assert light.les == heavy.les
    assert light.les["prefactor"] == PREFACTOR
    text = "charges in e: those of the file times sqrt(0.25 / 90.4756)"
    assert light.provenance["prefactor"] == text


def test_the_polarization_states_sign_and_permittivity(tmp_path):
    model = read(tmp_path, **ADDED)
    assert model.charge_sign == -1
    assert model.les["bec_epsilon_factor"] == pytest.approx(0.2**2 * PREFACTOR)


def test_several_charges_have_no_sign_and_more_self_terms(tmp_path):
    model = read(tmp_path, **{**ADDED, "charges": 3})
    assert (model.charge_sign, model.hyper["charge_channels"]) == (None, 3)
    assert model.les["periodic_self_terms"] == 3


def test_no_weight_is_1(tmp_path):
    stated, none = (read(tmp_path, **{**COMBINED, "weight": w}) for w in (1.0, None))
    assert_same_model(stated, none)


def test_born_charges_of_a_weighted_wrapper_are_those_of_the_file(tmp_path):
    light, heavy = (read(tmp_path, **{**COMBINED, "weight": w}, wrapped=True) for w in (0.25, 1))
    last = "charge.2.weight"
    torch.testing.assert_close(light.state[last], 0.5 * heavy.state[last])
    assert light.les == {**heavy.les, "bec_epsilon_factor": 4 * heavy.les["bec_epsilon_factor"]}
    assert light.provenance["prefactor"] == "charges in e: those of the file times sqrt(0.25)"
    assert heavy.provenance["prefactor"] == "model file"


def test_weights_in_older_files_are_not_applied(tmp_path):
    older, plain = (read(tmp_path, **COMBINED, old=True), read(tmp_path, **ADDED, old=True))
    torch.testing.assert_close(older.state["charge.2.weight"], plain.state["charge.2.weight"])


def _set(path: str, name: str, *values: object):
    """Gives an attribute of a module each of the values; others are changes."""

    def changed(value):
        return lambda model, make: setattr(
            model.get_submodule(path) if path else model, name, value
        )

    return {f"{name} {value!r:.30}": changed(value) for value in values}


def _key(name: str, *values: object):
    """The same of the keys of the first potential."""

    def changed(value):
        return lambda model, make: model.potential_keys[0].update({name: value})

    return {f"{name} {value!r:.30}": changed(value) for value in values}


EWALD, POLARIZATION, CHARGE = "output_modules.2", "output_modules.3", "output_modules.1"
IDLE = {
    **_set(EWALD, "external_field", None, False, 0.0),
    **_set(EWALD, "external_field_direction", 2),
    **_set(EWALD, "charge_neutral_lambda", None, 0.0),
    **_set(EWALD, "compute_field", True),
    **_set(EWALD, "exponent", 1, 1.0),
    **_set(EWALD, "dl", 2),
    **_set(EWALD, "norm_factor", 1),
    **_set(POLARIZATION, "output_index", 0),
    **_set(POLARIZATION, "pbc", False),
    **_set(CHARGE, "feature_key", "node_feats", ["node_feats"]),
    **_set(CHARGE, "output_key", "other"),
    **_set("representation", "forward_features", [], ["atomic_charge"]),
    **_set("representation", "cutoff", 4),
    **_set("", "keep_graph", True, False),
    **_set("", "do_postprocessing", False, None),
    **_set("representation", "brand_new", set(), torch.zeros(0), torch.nn.ModuleDict()),
}


def test_what_is_idle_changes_nothing(tmp_path):
    plain = read(tmp_path, **ADDED)
    for name, change in IDLE.items():
        assert_same_model(plain, read(tmp_path, change, **ADDED)), name


def _another_representation(model, make):
    first = model.models[0].representation
    other = make("Cace", dict(first.named_children()))
    other.__dict__.update({k: v for k, v in first.__dict__.items() if not k.startswith("_")})
    model.models[1].representation = other


def _another_model(model, make):
    model.operation = model.models[0].default_operation


#: On, and unknown or wrong: what is refused, and in which words.
REFUSED = {
    "exponent: expected 1 or 1.0, got 6": (ADDED, _set(EWALD, "exponent", 6)),
    "external_field: expected .*, got 0.1": (ADDED, _set(EWALD, "external_field", 0.1)),
    "external_field: expected .*, got 'field'": (ADDED, _set(EWALD, "external_field", "field")),
    "charge_neutral_lambda: .* got 0.5": (ADDED, _set(EWALD, "charge_neutral_lambda", 0.5)),
    "aggregation_mode: expected 'sum', got 'mean'": (
        ADDED,
        _set(EWALD, "aggregation_mode", "mean"),
    ),
    "norm_factor: expected a positive number": (ADDED, _set(EWALD, "norm_factor", 0, -1.0)),
    "sigma_sq_half: expected 0.5 from": (ADDED, _set(EWALD, "sigma_sq_half", 0.6)),
    "k_sq_max: expected": (ADDED, _set(EWALD, "dl", 3.0)),
    "remove_self_interaction: expected True or False": (
        ADDED,
        _set(EWALD, "remove_self_interaction", None, 1),
    ),
    "unsupported attribute of EwaldPotential with value 2": (ADDED, _set(EWALD, "dispersion", 2)),
    "feature_key: expected the charges of one network": (ADDED, _set(EWALD, "feature_key", "p")),
    "feature_key: expected 'node_feats', with or without 'charge_states' behind it, got": (
        ADDED,
        _set(CHARGE, "feature_key", ["node_feats", "spins"], "other"),
    ),
    "expected 2 outputs, got 1": (ADDED, _set(CHARGE, "n_out", 2)),
    "n_out: expected 1 to 100": (ADDED, _set(CHARGE, "n_out", 0, 101)),
    "normalization_factor: expected a number other than 0": (
        ADDED,
        _set(POLARIZATION, "normalization_factor", 0.0),
    ),
    "potential_keys.0.weight: expected a positive weight of the LES energy": (
        COMBINED,
        _key("weight", 0, -1.0, "0"),
    ),
    "weight: expected a number": (COMBINED, _key("weight", True, "x", math.nan, [1.0])),
    "potential_keys: expected one energy of each": (
        COMBINED,
        _key("CACE_energy", "other", None),
    ),
    "expected forces of the energy 'tot_q'": (COMBINED, _key("CACE_energy", "tot_q")),
    "potential_keys: expected those of 2": (COMBINED, _set("", "potential_keys", [{}], None)),
    "operation: expected the sum of the potentials": (
        COMBINED,
        {**_set("", "operation", None), "another": _another_model},
    ),
    "expected one representation of all potentials, got 2": (
        COMBINED,
        {"two": _another_representation},
    ),
    "expected forces of the energy 'ewald_potential'": (
        COMBINED,
        _set("models.0.output_modules.2", "energy_key", "SR_energy"),
    ),
    "output_key: expected a name of its own": (
        COMBINED,
        _set("models.0.output_modules.0", "output_key", "ewald_potential", 3),
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_on_and_unknown_is_refused_by_name(tmp_path, words):
    shape, changes = REFUSED[words]
    for change in changes.values():
        with pytest.raises(ModelFileError, match=words) as caught:
            read(tmp_path, change, **shape)
        assert "\n" not in str(caught.value)


def test_a_method_is_never_looked_up(tmp_path):
    """A sum named by a pickle stays a name, and no other method of the model is taken for it."""

    class Lookup:
        def __reduce__(self):
            return getattr, (model, "eval")

    model = None

    def change(made, make):
        nonlocal model
        model, made.operation = made, Lookup()

    with pytest.raises(ModelFileError, match="operation: expected the sum of the potentials"):
        read(tmp_path, change, **COMBINED)
