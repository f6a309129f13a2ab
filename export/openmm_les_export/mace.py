"""Reads MACE-LES models: a ``.model`` file becomes the canonical form of ``docs/design.md``.

torch alone is needed: neither mace-torch nor e3nn nor the les package, whatever wrote the file.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.networks.canonical import CanonicalModel
from openmm_les_export import e3nn_weights
from openmm_les_export.canonical_form import State, canonical_form, check_elements
from openmm_les_export.families import MACE
from openmm_les_export.les_parameters import les_parameters
from openmm_les_export.mace_options import ACCEPTED
from openmm_les_export.monomials import MAX_ORDER, coupling_monomials, reduce_rank
from openmm_les_export.records import Record, describe
from openmm_les_export.unpickle import PickledModel, read_pickle

_VINTAGES = {
    "mace.modules.models.MACELES": "MACE-LES fork",
    "mace.modules.extensions.MACELES": "mace-torch",
}
_SELECT_HEAD = "split it with mace-torch's mace_select_head and export one head"


def read_mace(path: str | os.PathLike[str]) -> CanonicalModel:
    """Reads a MACE-LES ``.model`` file of any vintage, precision and device.

    Raises:
        ModelFileError: the file is not a MACE-LES model, or damaged.
        UnsupportedModelError: names the option that openmm-les does not implement.
    """
    return canonical_mace(read_pickle(path))


def canonical_mace(pickled: PickledModel) -> CanonicalModel:
    """The canonical form of a MACE-LES model that `unpickle.read_pickle` opened."""
    model = pickled.root
    _check_single_head(model)
    ACCEPTED.check(model)
    elements = check_elements("atomic_numbers", model.tensor("atomic_numbers").tolist())
    state: State = {}
    hyper: dict[str, Any] = {"elements": elements, **_radial_basis(model, state)}
    lmax = _edge_lmax(model)
    embedding = e3nn_weights.linear_by_degree(model.module("node_embedding.linear"))[0]
    channels = embedding.shape[1]
    state["embedding"] = embedding
    state["reference_energies"] = _reference_energies(model, len(elements))
    scale, shift = (_single_head(model, f"scale_shift.{name}") for name in ("scale", "shift"))
    layers = _layers(model, state, len(elements), channels, lmax, scale)
    hyper |= {"lmax": lmax, "channels": channels, "energy_shift": shift, "layers": layers}
    return canonical_form(
        pickled,
        MACE,
        hyper=hyper,
        state=state,
        les=les_parameters(model.module("les")),
        vintage=_VINTAGES[model.qualified_name],
        weights=model.module("node_embedding.linear").tensor("weight"),
    )


def _check_single_head(model: Record) -> None:
    heads = model.value("heads", ["default"])
    if not isinstance(heads, list | tuple) or len(heads) != 1:
        raise UnsupportedModelError(
            f"model: option heads: expected a single head, got {describe(heads)}; {_SELECT_HEAD}"
        )


def _single_head(model: Record, path: str) -> float:
    owner, _, name = path.rpartition(".")
    count = model.module(owner).tensor(name).numel()
    if count != 1:
        raise UnsupportedModelError(
            f"model: {path}: expected a single head, got {count} heads; {_SELECT_HEAD}"
        )
    return model.scalar(path)


def _reference_energies(model: Record, elements: int) -> torch.Tensor:
    energies = model.module("atomic_energies_fn").tensor("atomic_energies")
    energies = energies.reshape(-1, energies.shape[-1])  # old files have no axis for heads
    if energies.shape[0] != 1:
        raise UnsupportedModelError(
            f"model: atomic_energies: expected a single head, got {energies.shape[0]} heads; "
            + _SELECT_HEAD
        )
    if energies.shape[1] != elements:
        raise ModelFileError(
            f"model: atomic_energies: expected {elements} energies, got {energies.shape[1]}"
        )
    return energies[0].to(torch.float64)


def _radial_basis(model: Record, state: State) -> dict[str, Any]:
    cutoffs = {
        model.scalar(path)
        for path in (
            "r_max",
            "radial_embedding.bessel_fn.r_max",
            "radial_embedding.cutoff_fn.r_max",
        )
    }
    if len(cutoffs) != 1:
        raise ModelFileError(f"model: r_max: expected one cutoff, got {sorted(cutoffs)}")
    basis = model.module("radial_embedding.bessel_fn")
    frequencies = basis.tensor("bessel_weights").to(torch.float64)
    state["bessel_frequencies"] = frequencies
    return {
        "cutoff": cutoffs.pop(),
        "num_bessel": frequencies.numel(),
        "bessel_prefactor": basis.scalar("prefactor"),
        "cutoff_order": int(model.scalar("radial_embedding.cutoff_fn.p")),
    }


def _edge_lmax(model: Record) -> int:
    harmonics = model.module("spherical_harmonics")
    multiplicity, lmax = e3nn_weights.channel_count(
        harmonics.irreps("irreps_out"), "spherical_harmonics.irreps_out"
    )
    if multiplicity != 1:
        raise UnsupportedModelError(
            f"model: spherical_harmonics: expected each degree once, got {multiplicity} times"
        )
    return lmax


def _layers(
    model: Record, state: State, elements: int, channels: int, lmax: int, scale: float
) -> list[dict[str, Any]]:
    """Hyper-parameters of the layers; their weights go into the state."""
    interactions, products = model.items("interactions"), model.items("products")
    readouts = _readout_pairs(model, len(interactions))
    if len(products) != len(interactions) or int(model.scalar("num_interactions")) != len(products):
        raise ModelFileError(
            f"model: expected as many products as interactions, got {len(products)} and "
            f"{len(interactions)}"
        )
    layers = []
    node_lmax = 0
    for t, (interaction, product) in enumerate(zip(interactions, products, strict=True)):
        prefix = f"layers.{t}."
        layer: dict[str, Any] = {"node_lmax": node_lmax}
        layer |= _interaction(interaction, state, prefix, channels, node_lmax, lmax)
        contractions = product.module("symmetric_contractions")
        width, output_lmax = e3nn_weights.channel_count(
            contractions.irreps("irreps_out"), f"{contractions.path}.irreps_out"
        )
        if width != channels:
            raise UnsupportedModelError(
                f"model: {product.path}: expected {channels} channels as in the embedding, got "
                f"{width}"
            )
        if t == len(products) - 1:
            # Readouts take scalars: covariant outputs of the last layer are never seen.
            output_lmax = 0
        layer |= _product(product, state, prefix, output_lmax, lmax)
        if product.value("use_sc"):
            skips = e3nn_weights.species_linear_by_degree(interaction.module("skip_tp"), elements)
            for degree in range(min(node_lmax, output_lmax) + 1):
                state[f"{prefix}skip.{degree}"] = skips[degree]
        layer |= _readouts(*readouts[t], state, prefix, channels, scale)
        layers.append(layer)
        node_lmax = output_lmax
    return layers


def _interaction(
    record: Record, state: State, prefix: str, channels: int, node_lmax: int, lmax: int
) -> dict[str, Any]:
    """Neighbour sums: linear_up, radial network, tensor product, linear mixing."""
    node_feats = record.irreps("node_feats_irreps")
    for name in ("node_feats_irreps", "edge_irreps"):
        if name in record.state and record.irreps(name) != node_feats:
            raise UnsupportedModelError(
                f"model: option {record.path}.{name}: expected those of the node features, got "
                + " + ".join(map(str, record.irreps(name)))
            )
    conv_tp, mixing = record.module("conv_tp"), record.module("linear")
    expected = [
        ("node_feats_irreps", node_feats, channels, node_lmax),
        ("conv_tp.irreps_in1", conv_tp.irreps("irreps_in1"), channels, node_lmax),
        ("conv_tp.irreps_in2", conv_tp.irreps("irreps_in2"), 1, lmax),
        ("linear.irreps_out", mixing.irreps("irreps_out"), channels, lmax),
    ]
    for name, irreps, mul, degree in expected:
        if e3nn_weights.channel_count(irreps, f"{record.path}.{name}") != (mul, degree):
            raise UnsupportedModelError(
                f"model: {record.path}.{name}: expected {mul} channels of degree 0 to {degree}, "
                "got " + " + ".join(map(str, irreps))
            )
    for degree, matrix in e3nn_weights.linear_by_degree(record.module("linear_up")).items():
        state[f"{prefix}up.{degree}"] = matrix

    paths = e3nn_weights.convolution_paths(conv_tp, channels)
    matrices = e3nn_weights.radial_mlp(record.module("conv_tp_weights"))
    if matrices[-1].shape[1] != len(paths) * channels:
        raise ModelFileError(f"model: {record.path}: radial network and tensor product do not fit")
    path_weights = torch.tensor([path.weight for path in paths], dtype=torch.float64)
    matrices[-1] = matrices[-1] * path_weights.repeat_interleave(channels)
    for k, matrix in enumerate(matrices):
        state[f"{prefix}radial.{k}"] = matrix

    _check_same_layout(record, conv_tp, mixing)
    neighbors = record.number("avg_num_neighbors")
    for degree, rows in e3nn_weights.linear_by_degree(mixing).items():
        # e3nn stacks the messages of a degree by slot, the canonical form in order of the paths.
        slots = sorted(path.slot for path in paths if path.out == degree)
        blocks = rows.view(len(slots), channels, channels)
        order = [slots.index(path.slot) for path in paths if path.out == degree]
        state[f"{prefix}mix.{degree}"] = blocks[order].flatten(0, 1) / neighbors
    return {"paths": [[path.node, path.edge, path.out] for path in paths]}


def _check_same_layout(record: Record, conv_tp: Record, mixing: Record) -> None:
    """The mixing layer may merge the tensor product's messages of one degree, nothing else."""
    layouts = [
        [irrep.l for irrep in irreps for _ in range(irrep.mul)]
        for irreps in (conv_tp.irreps("irreps_out"), mixing.irreps("irreps_in"))
    ]
    if layouts[0] != layouts[1]:
        raise UnsupportedModelError(
            f"model: {record.path}: expected linear to take the messages in the order of conv_tp"
        )


def _product(
    record: Record, state: State, prefix: str, output_lmax: int, lmax: int
) -> dict[str, Any]:
    """Product basis and the linear map behind it."""
    contractions = record.items("symmetric_contractions.contractions")
    outputs = e3nn_weights.linear_by_degree(record.module("linear"))
    orders = []
    for degree in range(output_lmax + 1):
        contraction = contractions[degree]
        order = int(contraction.number("correlation"))
        if not 1 <= order <= MAX_ORDER:
            raise UnsupportedModelError(
                f"model: {contraction.path}.correlation: expected 1 to {MAX_ORDER}, got {order}"
            )
        basis, weights = _contraction(contraction, order, degree, (lmax + 1) ** 2)
        state[f"{prefix}product.{degree}.basis"] = basis
        state[f"{prefix}product.{degree}.weights"] = weights
        state[f"{prefix}output.{degree}"] = outputs[degree]
        orders.append(order)
    return {"correlation": max(orders), "output_lmax": output_lmax}


def _contraction(
    record: Record, order: int, degree: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    bases, weights = [], []
    for nu in range(1, order + 1):
        coupling = record.tensor(f"U_matrix_{nu}").to(torch.float64)
        if degree == 0:
            coupling = coupling.unsqueeze(0)
        # Weights are stored from the highest order down.
        owner, name = record, "weights_max"
        if nu < order:
            owner, name = record.module("weights"), str(order - 1 - nu)
        weight = owner.tensor(name).to(torch.float64)
        count = weight.shape[1]
        if coupling.shape != (2 * degree + 1, *[size] * nu, count):
            raise ModelFileError(
                f"model: {record.path}.U_matrix_{nu}: expected {count} couplings of {size} "
                f"variables, got shape {tuple(coupling.shape)}"
            )
        bases.append(coupling_monomials(coupling, nu))
        weights.append(weight)
    return reduce_rank(bases, weights)


def _readout_pairs(model: Record, layers: int) -> list[tuple[Record | None, Record | None]]:
    """Energy and charge readout of each layer, None where a layer has none."""
    energy, charge = model.items("readouts"), model.items("les_readouts")
    if len(energy) != len(charge):
        raise UnsupportedModelError(
            f"model: les_readouts: expected as many as readouts, {len(energy)}, got {len(charge)}"
        )
    if len(energy) == 1 and model.value("use_last_readout_only", False):
        return [(None, None)] * (layers - 1) + [(energy[0], charge[0])]
    if len(energy) != layers:
        raise UnsupportedModelError(
            f"model: readouts: expected one for each of {layers} layers, got {len(energy)}"
        )
    return list(zip(energy, charge, strict=True))


def _readouts(
    energy: Record | None,
    charge: Record | None,
    state: State,
    prefix: str,
    channels: int,
    scale: float,
) -> dict[str, Any]:
    if energy is None or charge is None:
        for name in ("energy", "charge"):
            state[f"{prefix}{name}.0"] = torch.zeros(channels, 1, dtype=torch.float64)
        return {"readout": "linear", "readout_width": 0}
    matrices = {"energy": _readout(energy), "charge": _readout(charge)}
    shapes = [[matrix.shape for matrix in stack] for stack in matrices.values()]
    if shapes[0] != shapes[1]:
        raise UnsupportedModelError(
            f"model: {charge.path}: expected the layout of {energy.path}, got another"
        )
    if matrices["energy"][-1].shape[1] != 1:
        raise UnsupportedModelError(
            f"model: {energy.path}: expected a single head, got {shapes[0][-1][1]} outputs"
        )
    matrices["energy"][-1] = matrices["energy"][-1] * scale
    for name, stack in matrices.items():
        for k, matrix in enumerate(stack):
            state[f"{prefix}{name}.{k}"] = matrix
    if len(shapes[0]) == 1:
        return {"readout": "linear", "readout_width": 0}
    return {"readout": "nonlinear", "readout_width": int(shapes[0][0][1])}


def _readout(record: Record) -> list[torch.Tensor]:
    """Matrices of a readout on scalars: one, or two with silu between them."""
    if record.kind == "LinearReadoutBlock":
        return [e3nn_weights.linear_by_degree(record.module("linear"))[0]]
    hidden = record.irreps("hidden_irreps")
    if len(hidden) != 1 or hidden[0][1:] != (0, 1):
        raise UnsupportedModelError(
            f"model: {record.path}: expected hidden scalars, got " + " + ".join(map(str, hidden))
        )
    (activation,) = record.items("non_linearity.acts")
    constant = e3nn_weights.activation_constant(activation)
    first, second = (
        e3nn_weights.linear_by_degree(record.module(name))[0] for name in ("linear_1", "linear_2")
    )
    return [first, second * constant]
