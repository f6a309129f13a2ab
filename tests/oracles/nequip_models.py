"""Small NequIP-LES checkpoints of every shape, with random weights, written without nequip.

Configuration, names and order of tensors are those of nequip-train; where nequip is installed, its
own model takes the weights by name and shape, so that a wrong layout is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from openmm_les_export.nequip_layout import convention, layers

LES = {"norm_factor": 90.4756, "self_interaction": "removed"}
_PREFIX = "model.sole_model.model.func."
_VERSIONS = {"torch": "2.13.0", "e3nn": "0.6.0", "nequip": "0.19.1"}
#: Options with which the models of the tests are small.
_DEFAULTS: dict[str, Any] = {
    "seed": 1,
    "model_dtype": "float64",
    "type_names": ["H", "O"],
    "r_max": 4.0,
    "num_layers": 2,
    "l_max": 1,
    "parity": True,
    "num_features": 4,
    "radial_mlp_depth": 1,
    "radial_mlp_width": 8,
    "num_bessels": 5,
    "bessel_trainable": False,
    "polynomial_cutoff_p": 6,
    "avg_num_neighbors": 9.5,
    "per_type_energy_scales": {"H": 0.7, "O": 1.3},
    "per_type_energy_shifts": {"H": -13.1, "O": -430.2},
}


def synthetic_nequip(
    path: Path,
    *,
    old: bool = False,
    averaged: bool = True,
    les: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Path:
    """Writes a checkpoint.

    Args:
        path: where.
        old: as the fork of nequip 0.7 wrote it, instead of the extension NequIP-LES.
        averaged: trained with averages of the weights; those of the last step are then noise.
        les: options of the les package.
        change: what to do with the checkpoint before it is written.
        **options: of the model.
    """
    model = {**_DEFAULTS, **options}
    versions = {**_VERSIONS, "e3nn": "0.5.6", "nequip": "0.7.0"} if old else _VERSIONS
    generator = torch.Generator().manual_seed(7)
    network = _network(model, old, generator)
    trained = [name for name in network if _is_trained(name, model)]
    les_args = {"use_atomwise": False, "sigma": 1.0, "dl": 2.0, **(les or {})}
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
    return not name.endswith(("output_mask", "_rmax_recip")) and "tp.weight" not in name


def _network(
    model: dict[str, Any], old: bool, generator: torch.Generator
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
    version = (0, 7) if old else (0, 19)
    irreps = convention(version, model["l_max"], model["parity"], counts)
    for t, layer in enumerate(layers(irreps, model["num_layers"], embedding, counts[0])):
        prefix = f"layer{t}_convnet.conv."
        size = sum(block.shape[0] * block.shape[1] for block in layer.first_blocks())
        found[prefix + "linear_1.weight"] = random(size)
        found[prefix + "tp.weight"] = torch.zeros(0)
        dense(
            prefix + "edge_mlp",
            bessels,
            model["radial_mlp_depth"],
            model["radial_mlp_width"],
            layer.radial_columns(),
        )
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
    dense("latent_charge_readout.mlp_module", counts[0], 0, 0, 1)
    return found
