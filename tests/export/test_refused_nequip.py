"""NequIP-LES and Allegro-LES checkpoints that are refused, and what is said of them."""

from __future__ import annotations

import itertools
import warnings
from importlib.metadata import version

import numpy as np
import pytest
import torch
from openmm_les_export import read_model
from openmm_les_export.families.e3nn_weights import sign_of_symbol
from oracles.models import needs_mace
from oracles.nequip_models import LES, synthetic_allegro, synthetic_nequip

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.networks.blocks.angular import wigner_3j


def _model(**options):
    def change(checkpoint):
        checkpoint["hyper_parameters"]["model"].update(options)

    return change


def _les(**options):
    def change(checkpoint):
        checkpoint["hyper_parameters"]["model"]["LES"]["les_args"].update(options)

    return change


def _state(change_state):
    return lambda checkpoint: change_state(checkpoint["state_dict"])


def _information(name, value):
    def change(checkpoint):
        checkpoint["hyper_parameters"]["info_dict"][name] = value

    return change


def _put(name, tensor):
    return _state(lambda state: state.update({name: tensor}))


def _drop(name):
    return _state(lambda state: state.pop(name))


_NET = "model.sole_model.model.func."
REFUSED = {
    "another network below": (
        _model(base_model="mace"),
        r"base_model: expected 'nequip' or 'allegro', got 'mace'",
    ),
    "another builder": (_model(_target_="os.system"), r"_target_ 'os.system': .* nothing of it"),
    "another package": (
        _model(per_type_energy_scales={"_target_": "builtins.eval"}),
        r"per_type_energy_scales\._target_ 'builtins.eval': .* nothing of it was imported",
    ),
    "deep": (
        _model(type_names=["H", {"_target_": "posix.system"}]),
        r"type_names\.1\._target_ 'posix.system'",
    ),
    "a call of no name": (_model(LES={"_target_": 3}), r"LES\._target_ 3"),
    "pair potential": (
        _model(pair_potential={"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal"}),
        r"pair_potential\._target_ 'nequip\.nn\.pair_potential\.ZBL'",
    ),
    "cutoffs by types": (_model(per_edge_type_cutoff={"H": 3.0}), "option model.per_edge_type"),
    "other gate": (_model(convnet_nonlinearity_type="norm"), "convnet_nonlinearity_type"),
    "other readout": (_model(readout_mlp_nonlinearity="mish"), "expected 'silu', got 'mish'"),
    "residual": (_model(convnet_resnet=True), "convnet_resnet"),
    "unknown": (_model(charge_embedding=3), r"model\.charge_embedding: unsupported option"),
    "neighbours by types": (
        _model(avg_num_neighbors={"H": 9.0, "O": 9.0}),
        "option avg_num_neighbors: expected a positive number",
    ),
    "types": (_model(type_names=["H", "Ow"]), "type_names: expected symbols of elements"),
    "types twice": (_model(type_names=["H", "H"]), "expected different elements"),
    "cutoff order": (_model(polynomial_cutoff_p=2.5), "polynomial_cutoff_p: expected an integer"),
    "no layers": (_model(num_layers=0), "num_layers: expected an integer of 1 to 32, got 0"),
    "all memory": (_model(l_max=10**9), "l_max: expected an integer of 0 to 11, got 1000000000"),
    "features": (_model(num_features=[4]), "num_features: expected an integer or 2 of them"),
    "parity": (_model(parity="no"), "parity: expected True or False, got 'no'"),
    "two cutoffs": (_model(r_max=4.5), "expected one cutoff, got 4.5 and 4"),
    "another size": (_model(l_max=2, num_features=4), "expected shape"),
    "dipoles": (_les(use_dipole=True), "latent_dipole_readout.* expected a tensor"),
    "another network": (_les(use_atomwise=True), "use_atomwise"),
    "unknown LES": (_les(use_octupole=True), r"les_args\.use_octupole: unsupported option"),
    "negative width": (_les(sigma=-1.0), "les_args.sigma: expected a positive number"),
    "no flag": (_les(remove_mean=1), "les_args.remove_mean: expected True or False, got 1"),
    "no options": (_model(LES=3), "option LES: expected options, got 3"),
    "no model": (
        lambda checkpoint: checkpoint["hyper_parameters"].pop("model"),
        "expected the configuration of a model in the checkpoint, got none",
    ),
    "no LES": (_model(_target_="nequip.model.NequIPGNNModel"), "a NequIP model without LES"),
    "another training": (
        _information("training_module", {"_target_": "nequip.train.ScheduleFreeLightningModule"}),
        "training_module 'nequip.train.ScheduleFree.* which weights are the model",
    ),
    "no versions": (_information("versions", {}), "expected the version of nequip"),
    "old e3nn": (
        _information("versions", {"nequip": "0.5.0", "e3nn": "0.3.5"}),
        "expected a training with version 0.4 or later, got 0.3.5",
    ),
    "unknown tensor": (
        _put(_NET + "zbl._rmax_recip", torch.ones(1)),
        "zbl._rmax_recip: unsupported tensor",
    ),
    "another model": (_put("model.other.weight", torch.ones(1)), "model.other.weight: unsupported"),
    "no tensor": (_put(_NET + "type_embed.embed_module.weight", 3), "expected a tensor, got int"),
    "masked": (
        _put(_NET + "layer0_convnet.conv.linear_2.output_mask", torch.zeros(4)),
        "output_mask: unsupported tensor",
    ),
    "missing": (_drop(_NET + "layer1_convnet.conv.sc.weight"), "expected averages of"),
    "not averaged": (_put(_NET + "brand_new.weight", torch.ones(3)), "is brand_new.weight"),
    "averages lost": (_drop("ema._extra_state"), "expected averaged weights"),
    "averages swapped": (
        _put("ema._extra_state", {"is_holding_ema_weights": False}),
        "expected averaged weights",
    ),
    "averages cut": (
        _put("ema.ema_weight_1", torch.ones(3)),
        "no counterpart of its shape is layer",
    ),
    "scales": (
        _put(_NET + "per_type_energy_scale_shift.scales", torch.ones(3)),
        "expected one number or one for each of 2 elements, got 3",
    ),
    "another symbol": (
        _put(_NET + "layer1_convnet.conv.tp._w3j_1_1_1", torch.ones(3, 3, 3)),
        "_w3j_1_1_1: expected a Wigner 3j symbol",
    ),
    "a symbol that is too large": (
        _put(_NET + "layer1_convnet.conv.tp._w3j_900_900_900", torch.ones(3, 3, 3)),
        "_w3j_900_900_900: expected a Wigner 3j symbol",
    ),
    "a symbol of two degrees": (
        _put(_NET + "layer1_convnet.conv.tp._w3j_1_1", torch.ones(3, 3)),
        "_w3j_1_1: expected a Wigner 3j symbol",
    ),
    "not finite": (
        _put("ema.ema_weight_0", torch.full((2, 4), torch.nan, dtype=torch.float64)),
        "got NaN, infinity or more",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(tmp_path, case):
    change, named = REFUSED[case]
    path = synthetic_nequip(tmp_path / "x.ckpt", change=change)
    with pytest.raises(ModelFileError, match=named) as caught:
        read_model(path, **LES)
    assert "\n" not in str(caught.value)


REFUSED_OF_ALLEGRO = {
    "splines": (
        _model(radial_chemical_embed={"_target_": "allegro.nn.TwoBodySplineScalarEmbed"}),
        r"radial_chemical_embed\._target_ 'allegro.nn.TwoBodySpline.* nothing of it was imported",
    ),
    "no embedding": (
        _model(radial_chemical_embed=None),
        "option radial_chemical_embed: expected options, got None",
    ),
    "unknown of the embedding": (
        lambda checkpoint: checkpoint["hyper_parameters"]["model"]["radial_chemical_embed"].update(
            width=3
        ),
        "radial_chemical_embed.width: unsupported option",
    ),
    "other networks": (_model(allegro_mlp_nonlinearity="mish"), "expected 'silu', got 'mish'"),
    "no angles": (_model(l_max=0), "l_max: expected an integer of 1 to 11, got 0"),
    "all memory": (_model(num_tensor_features=10**9), "expected an integer of 1 to 10000"),
    "other neighbours": (_model(avg_num_neighbors=None), "avg_num_neighbors: expected a positive"),
    "other products": (
        _put(_NET + "allegro.tps.0.w3j", torch.ones(4, 4, 9, 4)),
        "allegro.tps.0: expected a tensor product with 4 harmonics and 3 channels",
    ),
    "more components": (
        _put(_NET + "allegro.tps.0.w3j", torch.ones(4, 5, 4, 4)),
        "allegro.tps.0: expected products of 4 components",
    ),
    "a NequIP option": (_model(num_features=3), "model.num_features: unsupported option"),
}


@pytest.mark.parametrize("case", REFUSED_OF_ALLEGRO)
def test_what_is_not_known_of_allegro_is_refused_by_name(tmp_path, case):
    change, named = REFUSED_OF_ALLEGRO[case]
    path = synthetic_allegro(tmp_path / "x.ckpt", change=change)
    with pytest.raises(ModelFileError, match=named) as caught:
        read_model(path, **LES)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_refused(tmp_path):
    def change(checkpoint):
        del checkpoint["state_dict"][_NET + "layer1_convnet.conv.sc.weight"]

    path = synthetic_nequip(tmp_path / "x.ckpt", averaged=False, change=change)
    with pytest.raises(UnsupportedModelError, match=r"sc\.weight: expected a tensor, got none"):
        read_model(path, **LES)


@needs_mace
def test_signs_of_symbols_are_those_of_e3nn_0_4():
    """All triples up to degree 4, and those of the table above; mace-torch brings that version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mace  # noqa: F401 - must precede e3nn
        from e3nn import o3

    assert version("e3nn").startswith("0.4.")
    degrees = itertools.product(range(5), repeat=3)
    triples = [(j, k, m) for j, k, m in degrees if abs(j - k) <= m <= j + k]
    triples += [(5, 5, 5), (5, 6, 10), (10, 6, 5), (7, 9, 11), (9, 9, 9), (11, 9, 11)]
    turned = 0
    for degrees in triples:
        expected = o3.wigner_3j(*degrees, dtype=torch.float64).numpy()
        sign = sign_of_symbol((0, 4), degrees)
        np.testing.assert_allclose(sign * wigner_3j(*degrees), expected, rtol=0, atol=1e-12)
        assert sign_of_symbol((0, 5), degrees) == 1.0
        turned += sign < 0
    assert turned == 3 * 3 + 6  # permutations of (1, 2, 2), (1, 3, 3), (1, 4, 4)


def test_weights_of_e3nn_0_4_are_turned_where_the_symbol_was(tmp_path):
    """Of the paths of 3 features each, those of degrees 1, 2, 2 in any order."""
    shape = {"l_max": 2, "num_layers": 3, "num_features": 3}
    new = read_model(synthetic_nequip(tmp_path / "new.ckpt", **shape), **LES)
    versions = _information("versions", {"nequip": "0.19.1", "e3nn": "0.4.4"})
    old = read_model(synthetic_nequip(tmp_path / "old.ckpt", change=versions, **shape), **LES)
    count = 0
    for t, layer in enumerate(new.hyper["layers"]):
        signs = []
        for node, edge, out in layer["paths"]:
            degrees = sorted((layer["nodes"][node][0], edge, layer["outputs"][out][0]))
            signs += 3 * [-1.0 if degrees == [1, 2, 2] else 1.0]
        count += signs.count(-1.0)
        last = f"layers.{t}.radial.1"
        assert torch.equal(old.state[last], new.state[last] * torch.tensor(signs).double())
    assert count > 3
    same = [name for name in new.state if not name.endswith("radial.1")]
    assert all(torch.equal(old.state[name], new.state[name]) for name in same)


def test_signs_of_symbols_are_those_of_the_file(tmp_path):
    """An e3nn with another sign of a Wigner 3j symbol leaves it in the file."""
    states = []
    for sign in (1.0, -1.0):
        symbol = torch.zeros(3, 3, 3)
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            symbol[i, j, k], symbol[j, i, k] = sign * 6**-0.5, -sign * 6**-0.5
        name = "model.sole_model.model.func.layer1_convnet.conv.tp._w3j_1_1_1"
        shape = {"old": True, "parity": False, "num_layers": 3}
        path = synthetic_nequip(tmp_path / "x.ckpt", change=_put(name, symbol), **shape)
        states.append(read_model(path, **LES).state["layers.1.radial.1"])
    # Of five paths with four features each one has degrees 1, 1, 1.
    changed = (states[0] + states[1] == 0).all(0)
    assert changed.sum() == 4
    assert torch.equal(states[0][:, ~changed], states[1][:, ~changed])
