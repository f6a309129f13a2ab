"""CHGNet-LES models as MatGL with DGL saves them, written without MatGL, weights at random.

Names and shapes follow MatGL's constructors; `matgl_energy` takes the same tensors into the CHGNet
of PyPI's MatGL, which loads them after renaming and must find every one.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Options with which models of the tests are small.
_NETWORK: dict[str, Any] = {
    "element_types": ("H", "C", "O"),
    "dim_atom_embedding": 6,
    "dim_bond_embedding": 5,
    "dim_angle_embedding": 4,
    "dim_state_embedding": None,
    "dim_state_feats": None,
    "non_linear_bond_embedding": False,
    "non_linear_angle_embedding": False,
    "cutoff": 4.5,
    "threebody_cutoff": 3.0,
    "cutoff_exponent": 5,
    "max_n": 7,
    "max_f": 3,
    "learn_basis": True,
    "num_blocks": 3,
    "shared_bond_weights": "both",
    "layer_bond_weights": None,
    "atom_conv_hidden_dims": (7,),
    "bond_update_hidden_dims": None,
    "bond_conv_hidden_dims": (6,),
    "angle_update_hidden_dims": (),
    "conv_dropout": 0.0,
    "final_mlp_type": "mlp",
    "final_hidden_dims": (6, 5),
    "final_dropout": 0.0,
    "pooling_operation": "sum",
    "readout_field": "atom_feat",
    "activation_type": "swish",
    "normalization": None,
    "normalize_hidden": False,
    "is_intensive": False,
    "num_targets": 1,
    "num_site_targets": 1,
    "task_type": "regression",
}
_POTENTIAL: dict[str, Any] = {
    "calc_forces": True,
    "calc_stresses": True,
    "calc_hessian": False,
    "calc_magmom": False,
    "calc_repuls": False,
    "calc_BEC": True,
    "les_sigma": 1.0,
    "les_dl": 2.0,
    "les_remove_mean": True,
    "les_norm_factor": 1.0,
    "les_epsilon_factor": 1.0,
    "les_pbc": True,
    "zbl_trainable": False,
    "debug_mode": False,
    "return_charge": True,
}


def synthetic_chgnet(
    folder: Path,
    *,
    scale: float = 1.3,
    mean: float = 0.0,
    rows: int | None = None,
    references: bool = True,
    dtype: torch.dtype = torch.float64,
    potential: dict[str, Any] | None = None,
    change: Callable[[dict[str, Any]], None] | None = None,
    **options: Any,
) -> Path:
    """Writes a model into a folder that is made for it; options are arguments of the network.

    The embedding has so many rows where the model does not state its elements. None takes an
    argument of the potential away. A change gets ``{"description", "arguments", "state"}``.
    """
    network = {**_NETWORK, **options}
    types = network["element_types"]
    number = rows if types is None else len(types)
    state = {f"model.{name}": t.to(dtype) for name, t in _network(network, number).items()}
    numbers = {"data_std": scale, "data_mean": mean}
    state |= {name: torch.tensor(value, dtype=dtype) for name, value in numbers.items()}
    energies = None
    if references:
        energies = -5.0 * torch.arange(1, number + 1, dtype=dtype)
        state["element_refs.property_offset"] = energies
        state["element_refs.onehot"] = torch.eye(number)
    model = {"@class": "CHGNet_LR", "@module": "matgl.models._chgnet", "@model_version": 1}
    arguments = {
        "model": {**model, "init_args": network},
        "data_mean": mean,
        "data_std": scale,
        "element_refs": energies,
        **_POTENTIAL,
        **(potential or {}),
    }
    dropped = {name for name, value in (potential or {}).items() if value is None}
    kept = {name: value for name, value in arguments.items() if name not in dropped}
    description = {
        "@class": "Potential",
        "@module": "matgl.apps.pes",
        "@model_version": 3,
        "metadata": None,
        "kwargs": kept,
    }
    parts = {"description": description, "arguments": kept, "state": state}
    if change is not None:
        change(parts)
    folder.mkdir()
    torch.save(parts["arguments"], folder / "model.pt")
    torch.save(parts["state"], folder / "state.pt")
    (folder / "model.json").write_text(json.dumps(parts["description"], default=str))
    return folder


def _network(options: dict[str, Any], number: int) -> dict[str, torch.Tensor]:
    """Tensors of the network by name, as modules are made in MatGL."""
    made = _Network(options)
    made.embeddings(number)
    for t in range(options["num_blocks"]):
        made.atom_layer(f"atom_graph_layers.{t}")
    for t in range(options["num_blocks"] - 1):
        made.bond_layer(f"bond_graph_layers.{t}.conv_layer")
    if options["num_site_targets"]:
        made.linear("magmom_readout", made.atoms, options["num_site_targets"])
    for name in ("final_layer", "latent_charge_readout"):
        made.mlp(name, [made.atoms, *options["final_hidden_dims"], 1], norms=False)
    return made.found


class _Network:
    """Random tensors, drawn in the order of the modules."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.generator = torch.Generator().manual_seed(7)
        self.found: dict[str, torch.Tensor] = {}
        self.atoms, self.bonds, self.angles = (
            options[f"dim_{name}_embedding"] for name in ("atom", "bond", "angle")
        )
        self.bessel, self.norm = options["max_n"], options["normalization"] == "layer"

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def linear(self, name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        self.found[f"{name}.weight"] = self.random(outputs, inputs) * (1.5 / inputs**0.5)
        if bias:
            self.found[f"{name}.bias"] = 0.3 * self.random(outputs)

    def normalization(self, name: str, width: int) -> None:
        self.found[f"{name}.weight"] = 1.0 + 0.2 * self.random(width)
        self.found[f"{name}.bias"] = 0.2 * self.random(width)

    def mlp(self, name: str, widths: list[int], norms: bool) -> None:
        place = itertools.count()
        for k, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            self.linear(f"{name}.layers.{k}", inputs, outputs)
            if norms and (self.options["normalize_hidden"] or k == len(widths) - 2):
                self.normalization(f"{name}.norm_layers.{next(place)}", outputs)

    def gated(self, name: str, widths: list[int]) -> None:
        for branch in ("layers", "gates"):
            self.mlp(f"{name}.{branch}", widths, self.norm)

    def embeddings(self, number: int) -> None:
        bessel, fourier = self.bessel, self.options["max_f"]
        for name, length in (("bond", bessel), ("threebody_bond", bessel), ("angle", fourier + 1)):
            start = 0.0 if name == "angle" else 1.0
            roots = (torch.arange(length) + start) * (1.0 if name == "angle" else math.pi)
            self.found[f"{name}_expansion.frequencies"] = roots + 0.05 * self.random(length)
        self.found["atom_embedding.weight"] = self.random(number, self.atoms)
        self.linear("bond_embedding.layers.0", bessel, self.bonds, bias=False)
        self.linear("angle_embedding.layers.0", 2 * fourier + 1, self.angles, bias=False)
        shared = self.options["shared_bond_weights"]
        if shared in ("bond", "both"):
            self.linear("atom_bond_weights", bessel, self.atoms, bias=False)
            self.linear("bond_bond_weights", bessel, self.bonds, bias=False)
        if shared in ("three_body_bond", "both"):
            self.linear("threebody_bond_weights", bessel, self.bonds, bias=False)

    def atom_layer(self, block: str) -> None:
        options, conv, pair = self.options, f"{block}.conv_layer", 2 * self.atoms + self.bonds
        update, own = options["bond_update_hidden_dims"], options["layer_bond_weights"]
        hidden = options["atom_conv_hidden_dims"]
        self.gated(f"{conv}.node_update_func", [pair, *hidden, self.atoms])
        self.linear(f"{conv}.node_out_func", self.atoms, self.atoms, bias=False)
        if own in ("bond", "both"):
            self.linear(f"{conv}.node_weight_func", self.bessel, self.atoms, bias=False)
        if update is not None:
            self.gated(f"{conv}.edge_update_func", [pair, *update, self.bonds])
            if own in ("bond", "both"):
                self.linear(f"{conv}.edge_weight_func", self.bessel, self.bonds, bias=False)
        if self.norm:
            self.normalization(f"{block}.atom_norm", self.atoms)
            self.normalization(f"{block}.bond_norm", self.bonds)

    def bond_layer(self, conv: str) -> None:
        options, bonds = self.options, self.bonds
        triple = 2 * bonds + self.angles + self.atoms
        hidden, update = options["bond_conv_hidden_dims"], options["angle_update_hidden_dims"]
        self.gated(f"{conv}.node_update_func", [triple, *hidden, bonds])
        self.linear(f"{conv}.node_out_func", bonds, bonds, bias=False)
        if options["layer_bond_weights"] in ("three_body_bond", "both"):
            self.linear(f"{conv}.node_weight_func", self.bessel, bonds)
        if update is not None:
            self.gated(f"{conv}.edge_update_func", [triple, *update, self.angles])


def matgl_energy(
    folder: Path, pairs: tuple[torch.Tensor, ...], r: torch.Tensor, species: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy of the network without its scale [], and charges [n], by PyPI's MatGL.

    Pairs are source and target of each bond, and shift of r_target - r_source.
    """
    from matgl.models import CHGNet
    from torch_geometric.data import Data

    arguments, state = (
        torch.load(folder / name, weights_only=True) for name in ("model.pt", "state.pt")
    )
    network = CHGNet(**arguments["model"]["init_args"]).double().eval()
    renamed = {_pypi_name(n[6:]): t.double() for n, t in state.items() if n.startswith("model.")}
    charge = {n: renamed.pop(n) for n in list(renamed) if n.startswith("latent_charge")}
    network.load_state_dict(renamed)  # strict
    source, target, shifts = pairs
    graph = Data(
        pos=r,
        edge_index=torch.stack([source, target]),
        pbc_offshift=shifts,
        pbc_offset=shifts,  # only compared with its negative
        node_type=species,
    )
    energy = network(graph)
    x = network.feature_dict[f"gc_{network.n_blocks}"]["atom_feat"]
    depth = len(charge) // 2
    for k in range(depth):
        weight, bias = (charge[f"latent_charge_readout.layers.{k}.{p}"] for p in ("weight", "bias"))
        x = torch.nn.functional.linear(x, weight, bias)
        x = torch.nn.functional.silu(x) if k < depth - 1 else x
    return energy, x[:, 0]


def _pypi_name(name: str) -> str:
    for old, new in (
        ("conv_layer.", "conv."),
        ("update_func.layers.", "update_func.value."),
        ("update_func.gates.", "update_func.gate."),
        ("norm_layers.", "norms."),
        ("magmom_readout", "sitewise_readout"),
    ):
        name = name.replace(old, new)
    return name


def far_from_cutoffs(positions: np.ndarray, cutoffs: tuple[float, ...]) -> float:
    """How near a distance in an open structure comes to one of the cutoffs [A]."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    return min(float(np.abs(distances - cutoff).min()) for cutoff in cutoffs)
