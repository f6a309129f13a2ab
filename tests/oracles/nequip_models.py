"""Small NequIP-LES and Allegro-LES checkpoints with random weights, written without nequip.

Configuration, names and order of tensors are those of nequip-train; where nequip is installed, its
own model takes the weights by name and shape, so that a wrong layout is noticed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from openmm_les_export.families.nequip.layout import Layer, convention, layers

from openmm_les.networks.blocks.angular import wigner_3j

LES = {"norm_factor": 90.4756, "self_interaction": "removed"}
_PREFIX = "model.sole_model.model.func."
_VERSIONS = {"torch": "2.13.0", "e3nn": "0.6.0", "nequip": "0.19.1"}
#: Options with which the models of the tests are small: of both, of NequIP, and of Allegro.
_BOTH: dict[str, Any] = {
    "seed": 1,
    "model_dtype": "float64",
    "type_names": ["H", "O"],
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 1,
    "parity": True,
    "avg_num_neighbors": 9.5,
    "per_type_energy_scales": {"H": 0.7, "O": 1.3},
    "per_type_energy_shifts": {"H": -13.1, "O": -430.2},
}
_BESSEL = {"num_bessels": 5, "bessel_trainable": False, "polynomial_cutoff_p": 6}
_NEQUIP = {**_BOTH, **_BESSEL, "num_features": 4, "radial_mlp_depth": 1, "radial_mlp_width": 8}
_ALLEGRO: dict[str, Any] = {
    **_BOTH,
    "num_scalar_features": 6,
    "num_tensor_features": 3,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", **_BESSEL},
    "radial_chemical_embed_dim": 4,
    "scalar_embed_mlp_hidden_layers_depth": 1,
    "scalar_embed_mlp_hidden_layers_width": 7,
    "allegro_mlp_hidden_layers_depth": 1,
    "allegro_mlp_hidden_layers_width": 8,
    "readout_mlp_hidden_layers_depth": 1,
    "readout_mlp_hidden_layers_width": 5,
    "tp_path_channel_coupling": True,
}


#: Options of the les package for models with latent moments: all of them, and others.
MOMENTS: dict[str, dict[str, Any]] = {
    "all": {
        "use_dipole": True,
        "use_quadrupole": True,
        "use_induced_charge": True,
        "use_induced_dipole": True,
        "use_anisotropic_polarizability": True,
        "alpha_irreps": "0e+1o+2e",
    },
    "isotropic": {"use_induced_charge": True, "use_induced_dipole": True, "alpha_scale": 0.07},
    "tensors": {
        "use_quadrupole": True,
        "use_induced_dipole": True,
        "use_anisotropic_polarizability": True,
        "alpha_irreps": "1o+2e",
        "kappa_alpha_positive": False,
        "alpha_scale": 0.02,
    },
    "kappa": {"use_dipole": True, "use_induced_charge": True, "kappa_scale": 0.03},
}


def readouts_of(les: dict[str, Any], lmax: int) -> dict[str, list[str]]:
    """Kinds of moments, without the charge, and irreps of the readouts that a model has of each."""
    alpha = []
    if les.get("use_induced_dipole"):
        tensors = les.get("use_anisotropic_polarizability")
        alpha = les["alpha_irreps"].split("+") if tensors else ["0e"]
    found = {
        "dipole": ["1o"] if les.get("use_dipole") else [],
        "quad": ["1o", "2e"] if les.get("use_quadrupole") else [],
        "kappa": ["0e"] if les.get("use_induced_charge") else [],
        "alpha": alpha,
    }
    return {name: [i for i in irreps if int(i[0]) <= lmax] for name, irreps in found.items()}


def _basis(dtype: torch.dtype) -> torch.Tensor:
    """Tensors of the five components of degree 2, rounded as in files."""
    a, b = 0.5**0.5, 6.0**-0.5
    found = torch.zeros(5, 3, 3, dtype=torch.float64)
    for m, entries in enumerate(
        (
            {(0, 2): a},
            {(0, 1): a},
            {(0, 0): -b, (1, 1): 2 * b, (2, 2): -b},
            {(1, 2): a},
            {(2, 2): a, (0, 0): -a},
        )
    ):
        for (i, j), value in entries.items():
            found[m, i, j] = found[m, j, i] = value
    return found.to(torch.float32).to(dtype)


def synthetic_nequip(
    path: Path,
    *,
    old: bool = False,
    averaged: bool = True,
    les: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Path:
    """Writes a checkpoint with options of the model and of the les package, perhaps changed.

    An old one is as the fork of nequip 0.7 wrote it, instead of the extension NequIP-LES. With
    averages of the weights those of the last step are noise.
    """
    model = {**_NEQUIP, **options}
    versions = {**_VERSIONS, "e3nn": "0.5.6", "nequip": "0.7.0"} if old else _VERSIONS
    generator = torch.Generator().manual_seed(7)
    les_args = {"use_atomwise": False, "sigma": 1.0, "dl": 2.0, **(les or {})}
    network = _network(model, old, generator, readouts_of(les_args, model["l_max"]))
    trained = [name for name in network if _is_trained(name, model)]
    if old:
        model |= {"_target_": "nequip.model.NequIPGNNModel", "use_les": True, "les_args": les_args}
    else:
        model |= {
            "_target_": "nequip_les.model.LESModel",
            "base_model": "nequip",
            "LES": {"les_args": les_args, "compute_bec": False},
        }
    kind = "EMALightningModule" if averaged else "NequIPLightningModule"
    state = {_PREFIX + _named(name, old): tensor for name, tensor in network.items()}
    if averaged:
        for i, name in enumerate(trained):
            state[f"ema.ema_weight_{i}"] = network[name]
            noise = torch.randn(network[name].shape, generator=generator, dtype=network[name].dtype)
            state[_PREFIX + _named(name, old)] = network[name] + noise
        state["ema._extra_state"] = {"is_holding_ema_weights": True}
    checkpoint = {
        "state_dict": {"run_stage": torch.zeros(1, dtype=torch.int64), **state},
        "optimizer_states": [{"generator": torch.zeros(9, dtype=torch.uint8)}],
        "hyper_parameters": {
            "model": model,
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.005},
            "info_dict": {
                "versions": versions,
                "training_module": {"_target_": f"nequip.train.{kind}"},
            },
        },
    }
    if change is not None:
        change(checkpoint)
    torch.save(checkpoint, path)
    return path


def _named(name: str, old: bool) -> str:
    return name if old else name.replace(".conv.tp.", ".conv.tp_scatter.tp.")


def _is_trained(name: str, model: dict[str, Any]) -> bool:
    if name.endswith("bessel_weights"):
        return bool(model["bessel_trainable"])
    if name.endswith((".scales", ".shifts")):
        return bool(model.get(f"per_type_energy_{name.rpartition('.')[2]}_trainable"))
    buffers = ("output_mask", "_rmax_recip", "change_of_basis_2e")
    return not name.endswith(buffers) and "tp.weight" not in name


def _network(
    model: dict[str, Any], old: bool, generator: torch.Generator, moments: dict[str, list[str]]
) -> dict[str, torch.Tensor]:
    """Tensors of the network by name, in the order of a checkpoint."""
    dtype = getattr(torch, model["model_dtype"])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    def dense(name: str, inputs: int, depth: int, width: int, outputs: int) -> None:
        widths = [inputs, *[width] * depth, outputs]
        for k in range(depth + 1):
            found[f"{name}.mlp.{2 * k}.weight"] = random(widths[k], widths[k + 1])

    def numbers(name: str, value: Any) -> None:
        if value is None:
            value = []
        elif isinstance(value, dict):
            value = [value[t] for t in model["type_names"]]
        tensor = torch.tensor(value, dtype=torch.float64).reshape(-1)
        found[f"per_type_energy_scale_shift.{name}"] = tensor if old else tensor.view(-1, 1)

    found: dict[str, torch.Tensor] = {}
    features = model["num_features"]
    counts = features if isinstance(features, list) else [features] * (model["l_max"] + 1)
    embedding = model.get("type_embed_num_features", counts[0])
    bessels = model["num_bessels"]
    found["type_embed.embed_module.weight"] = random(len(model["type_names"]), embedding)
    found["edge_norm._rmax_recip"] = torch.tensor(1.0 / model["r_max"], dtype=torch.float64)
    roots = torch.linspace(1.0, bessels, bessels, dtype=torch.float64).unsqueeze(0)
    found["bessel_encode.bessel_weights"] = roots * (1.02 if model["bessel_trainable"] else 1.0)
    radial = model["radial_mlp_depth"], model["radial_mlp_width"]
    version = (0, 7) if old else (0, 19)
    irreps = convention(version, model["l_max"], model["parity"], counts)
    for t, layer in enumerate(layers(irreps, model["num_layers"], embedding, counts[0])):
        if t == model["num_layers"] - 1:
            _add_moments(found, layer, moments, random)
        prefix = f"layer{t}_convnet.conv."
        size = sum(block.shape[0] * block.shape[1] for block in layer.first_blocks())
        found[prefix + "linear_1.weight"] = random(size)
        found[prefix + "tp.weight"] = torch.zeros(0)
        dense(prefix + "edge_mlp", bessels, *radial, layer.radial_columns())
        size = sum(block.shape[0] * block.shape[1] for block in layer.second_blocks())
        found[prefix + "linear_2.weight"] = random(size)
        found[prefix + "linear_2.output_mask"] = torch.ones(4)
        if t:
            blocks = layer.skip_blocks(embedding)
            size = sum(b.shape[0] * b.shape[1] * b.shape[2] for b in blocks)
            found[prefix + "sc.weight"] = random(size)
    depth = model.get("readout_mlp_hidden_layers_depth", 0)
    width = model.get("readout_mlp_hidden_layers_width", counts[0])
    dense("per_atom_energy_readout.mlp_module", counts[0], depth, width, 1)
    numbers("scales", model["per_type_energy_scales"])
    numbers("shifts", model["per_type_energy_shifts"])
    for name in ("charge", *(name for name in ("kappa", "alpha") if "0e" in moments[name])):
        dense(f"latent_{name}_readout.mlp_module", counts[0], 0, 0, 1)
    return found


def _add_moments(
    found: dict[str, torch.Tensor],
    layer: Layer,
    moments: dict[str, list[str]],
    random: Callable[..., torch.Tensor],
) -> None:
    """Readouts of vectors and tensors, of the features that enter a layer."""
    widths = {f"{irrep.l}{'eo'[irrep.p < 0]}": irrep.mul for irrep in layer.nodes}
    for moment, irreps in moments.items():
        for irrep in irreps:
            name = "latent_dipole" if moment == "dipole" else f"{moment}_{irrep}"
            if irrep != "0e":
                found[f"{name}_readout.linear.weight"] = 0.3 * random(widths[irrep])
                found[f"{name}_readout.linear.output_mask"] = torch.ones(3)
            if irrep == "2e":
                found[f"{name}_cart.change_of_basis_2e"] = _basis(random(1).dtype)


def synthetic_allegro(
    path: Path,
    *,
    bessel_trainable: bool = False,
    les: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Path:
    """Writes an Allegro-LES checkpoint; see `synthetic_nequip`."""
    radial = _ALLEGRO["radial_chemical_embed"] | {"bessel_trainable": bessel_trainable}
    model = {**_ALLEGRO, "radial_chemical_embed": radial, **options}
    moments = readouts_of(les or {}, model["l_max"])
    network = _allegro_network(model, torch.Generator().manual_seed(5), moments)
    model |= {
        "_target_": "nequip_les.model.LESModel",
        "base_model": "allegro",
        "LES": {"les_args": {"use_atomwise": False, "sigma": 1.0, "dl": 2.0, **(les or {})}},
    }
    checkpoint = {
        "state_dict": {_PREFIX + name: tensor for name, tensor in network.items()},
        "hyper_parameters": {
            "model": model,
            "info_dict": {
                "versions": {**_VERSIONS, "allegro": "0.8.3"},
                "training_module": {"_target_": "nequip.train.NequIPLightningModule"},
            },
        },
    }
    if change is not None:
        change(checkpoint)
    torch.save(checkpoint, path)
    return path


def _tensor_irreps(lmax: int, parity: bool, number: int) -> list[list[tuple[int, int]]]:
    """Degree and parity of the tensors of a pair before each layer and after the last."""
    harmonics = [(d, (-1) ** d) for d in range(lmax + 1)]
    allowed = [(d, p) for d in range(lmax + 1) for p in (1, -1)] if parity else harmonics

    def products(one: tuple[int, int], other: tuple[int, int]) -> list[tuple[int, int]]:
        degrees = range(abs(one[0] - other[0]), one[0] + other[0] + 1)
        return [(degree, one[1] * other[1]) for degree in degrees]

    found = [harmonics]
    for t in range(number):
        reached = {p for one in found[-1] for other in harmonics for p in products(one, other)}
        wanted = [(0, 1)] if t == number - 1 else allowed
        found.append([irrep for irrep in wanted if irrep in reached])
    for t in range(number - 1, -1, -1):
        useful = set(found[t + 1])
        found[t] = [i for i in found[t] if any(useful & {*products(i, y)} for y in harmonics)]
    return found


def _allegro_network(
    model: dict[str, Any], generator: torch.Generator, moments: dict[str, list[str]]
) -> dict[str, torch.Tensor]:
    """Tensors of the network by name, in the order of a checkpoint."""
    dtype = getattr(torch, model["model_dtype"])
    found: dict[str, torch.Tensor] = {}

    def random(name: str, *shape: int) -> None:
        found[name] = torch.randn(shape, generator=generator, dtype=dtype)

    def dense(name: str, inputs: int, depth: int, width: int, outputs: int) -> None:
        widths = [inputs, *[width] * depth, outputs]
        for k in range(depth + 1):
            random(f"{name}.mlp.{2 * k}.weight", widths[k], widths[k + 1])

    def network(name: str, kind: str, inputs: int, outputs: int) -> None:
        depth, width = (model[f"{kind}_mlp_hidden_layers_{what}"] for what in ("depth", "width"))
        dense(name, inputs, depth, width, outputs)

    types, lmax = len(model["type_names"]), model["l_max"]
    radial, width = model["radial_chemical_embed"], model["radial_chemical_embed_dim"]
    scalars, channels = model["num_scalar_features"], model["num_tensor_features"]
    number, bessels = model["num_layers"], radial["num_bessels"]
    weights = channels * (lmax + 1)
    found["edge_norm._rmax_recip"] = torch.tensor(1.0 / model["r_max"], dtype=torch.float64)
    roots = torch.linspace(1.0, bessels, bessels, dtype=torch.float64).unsqueeze(0)
    embed = "radial_chemical_embed."
    found[embed + "bessel_encode.bessel_weights"] = roots
    random(embed + "type_embed.center_embed.weight", types, width // 2)
    random(embed + "type_embed.neighbor_embed.weight", types, width // 2)
    dense(embed + "type_embed.basis_linear", bessels, 0, 0, width)
    network("scalar_embed_mlp.mlp_module", "scalar_embed", width, scalars)
    dense("tensor_embed.env_embed_linear", scalars, 0, 0, weights)
    dense("allegro.first_layer_env_embed_projection", scalars, 0, 0, scalars + weights)
    for t in range(number):
        outputs = scalars + (weights if t < number - 1 else 0)
        network(f"allegro.latents.{t}", "allegro", scalars * (t + 1) + channels, outputs)
    irreps = _tensor_irreps(lmax, model["parity"], number)
    for t in range(number):
        symbols = _symbols(irreps[t], irreps[t + 1], lmax)
        shape = (channels, len(symbols)) if model["tp_path_channel_coupling"] else (len(symbols),)
        random(f"allegro.tps.{t}.weights", *shape)
        found[f"allegro.tps.{t}.w3j"] = symbols.to(dtype)
    everything = scalars * (number + 1)
    network("edge_readout.mlp_module", "readout", everything, 1)
    for name in ("scales", "shifts"):
        values = [model[f"per_type_energy_{name}"][symbol] for symbol in model["type_names"]]
        tensor = torch.tensor(values, dtype=torch.float64).view(-1, 1)
        found[f"per_type_energy_scale_shift.{name}"] = tensor
    width = model["readout_mlp_hidden_layers_width"]
    names = {("dipole", "1o"): "latent_dipole_weight_readout"}
    for moment, irreps in {"charge": ["0e"], **moments}.items():
        for irrep in irreps:
            default = f"latent_{moment}_readout" if irrep == "0e" else f"{moment}_{irrep}_weight"
            name = names.get((moment, irrep), default)
            dense(f"edge_{name}.mlp_module", everything, 1, width, 1)
            if irrep == "2e":
                found[f"edge_{moment}_2e_outer.change_of_basis_2e"] = _basis(dtype)
    return found


def _symbols(
    tensors: list[tuple[int, int]], outputs: list[tuple[int, int]], lmax: int
) -> torch.Tensor:
    """Wigner 3j symbols of all paths as allegro keeps them: [path, in, harmonics, out]."""
    harmonics = [(d, (-1) ** d) for d in range(lmax + 1)]

    def places(irreps: list[tuple[int, int]]) -> list[slice]:
        firsts = [sum(2 * d + 1 for d, _ in irreps[:i]) for i in range(len(irreps) + 1)]
        return [slice(a, b) for a, b in itertools.pairwise(firsts)]

    spaces = [places(irreps) for irreps in (tensors, harmonics, outputs)]
    sizes = [space[-1].stop for space in spaces]
    found = []
    for k, (out, parity) in enumerate(outputs):
        for i, (one, p) in enumerate(tensors):
            for j, (other, q) in enumerate(harmonics):
                if p * q == parity and abs(one - other) <= out <= one + other:
                    symbol = torch.zeros(*sizes, dtype=torch.float64)
                    values = torch.from_numpy(wigner_3j(one, other, out) * (2 * out + 1) ** 0.5)
                    symbol[spaces[0][i], spaces[1][j], spaces[2][k]] = values
                    found.append(symbol)
    stacked = torch.stack(found)
    off = ~torch.eye(sizes[0], sizes[1], dtype=torch.bool)
    if sizes[0] == sizes[1] and not bool(stacked[:, off].any()):
        stacked = torch.diagonal(stacked, 0, 1, 2).transpose(1, 2)
    return stacked
