"""Reads MACE-LES models: a ``.model`` file becomes the form of ``docs/reference/formats/mace.md``.

Only torch is needed: neither mace-torch nor e3nn nor the les package, whatever wrote the file.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.networks.parameters import check_large
from openmm_les_export.checkpoints.configuration import check_elements
from openmm_les_export.checkpoints.records import Record, unsupported
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families import e3nn_weights
from openmm_les_export.families.canonical_form import (
    State,
    canonical_form,
    integer_order,
    store_network,
)
from openmm_les_export.families.les_parameters import les_parameters
from openmm_les_export.families.mace.accepted import ACCEPTED
from openmm_les_export.families.mace.conditions import read_conditions
from openmm_les_export.families.mace.heads import choose_head
from openmm_les_export.families.mace.moments import (
    atomic_tables,
    highest_degree,
    moment_readouts,
    read_moments,
)
from openmm_les_export.families.mace.monomials import (
    CUBIC,
    MAX_ORDER,
    coupling_monomials,
    reduce_rank,
)
from openmm_les_export.families.mace.radial import radial_basis, zbl_repulsion
from openmm_les_export.families.mace.readouts import output_scale, read_readouts
from openmm_les_export.options import ModelOptions

_VINTAGES = {
    "mace.modules.models.MACELES": "MACE-LES fork",
    "mace.modules.extensions.MACELES": "mace-torch",
}


def read(opened: ModelFile, options: ModelOptions) -> CanonicalModel:
    """The canonical form of a MACE-LES model of any vintage, see `canonical_model`."""
    model = opened.root
    ACCEPTED.check(model)
    moments = moment_readouts(model)
    chosen = choose_head(model, options.head)
    elements = check_elements("atomic_numbers", model.tensor("atomic_numbers").tolist())
    state: State = {}
    hyper: dict[str, Any] = {"elements": elements, **radial_basis(model, elements, state)}
    lmax = _edge_lmax(model)
    embedding = e3nn_weights.linear_by_degree(model.module("node_embedding.linear"))[0]
    channels = embedding.shape[1]
    state["embedding"] = embedding
    energies = model.module("atomic_energies_fn")
    state["reference_energies"] = chosen.energies(energies, len(elements))
    scale_shift = model.module("scale_shift")
    scale, shift = (chosen.number(scale_shift, name) for name in ("scale", "shift"))
    hyper |= read_conditions(model, chosen, state, channels)
    degree = highest_degree(moments)
    layers = _layers(model, state, len(elements), (channels, lmax), degree)
    read_readouts(model, state, layers, chosen, (scale, output_scale(model)))
    hyper |= read_moments(model, moments, state, layers, chosen)
    dtype = model.module("node_embedding.linear").tensor("weight").dtype
    if "moments" in hyper and dtype == torch.float32:
        # Charges hardly depend on it: their models stay as they have been.
        hyper["rounded_symbols"] = True
    state |= atomic_tables(model.module("les"), elements, any("alpha" in name for name in moments))
    hyper |= zbl_repulsion(model, elements, state, scale)
    hyper |= {"lmax": lmax, "channels": channels, "energy_shift": shift, "layers": layers}
    canonical = canonical_form(
        opened,
        hyper=hyper,
        state=state,
        les=les_parameters(model.module("les")),
        vintage=_VINTAGES[model.qualified_name],
        dtype=dtype,
    )
    if chosen.count > 1:
        canonical.source["head"] = chosen.name
    return canonical


def _edge_lmax(model: Record) -> int:
    harmonics = model.module("spherical_harmonics")
    multiplicity, lmax = e3nn_weights.channel_count(
        harmonics.irreps("irreps_out"), "spherical_harmonics.irreps_out"
    )
    if multiplicity != 1:
        raise unsupported("spherical_harmonics", "each degree once", f"{multiplicity} times")
    return lmax


def _layers(
    model: Record, state: State, elements: int, sizes: tuple[int, int], highest: int
) -> list[dict[str, Any]]:
    """Hyper-parameters of the layers; their weights go into the state.

    The sizes are the channels and the degree of edges; `highest` is that of readouts.
    """
    channels, lmax = sizes
    interactions, products = model.items("interactions"), model.items("products")
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
            raise unsupported(product.path, f"{channels} channels as in the embedding", width)
        if t == len(products) - 1:
            # What its readouts do not take is never seen.
            output_lmax = min(output_lmax, highest)
        layer |= _product(product, state, prefix, output_lmax, lmax)
        maps = e3nn_weights.species_linear_by_degree(interaction.module("skip_tp"), elements)
        if "Residual" not in interaction.kind:
            # There it acts on the neighbour sums, and nothing goes past the product basis.
            for degree in range(lmax + 1):
                state[f"{prefix}selector.{degree}"] = maps[degree]
        elif product.value("use_sc"):
            for degree in range(min(node_lmax, output_lmax) + 1):
                state[f"{prefix}skip.{degree}"] = maps[degree]
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
    store_network(state, f"{prefix}radial", matrices)

    _check_same_layout(record, conv_tp, mixing)
    if "density_fn" in record.modules():
        state[f"{prefix}density"] = _density(record, len(matrices[0]))
    # A learned density takes the place of the number of neighbours.
    neighbors = 1.0 if "density_fn" in record.modules() else record.number("avg_num_neighbors")
    for degree, rows in e3nn_weights.linear_by_degree(mixing).items():
        # e3nn stacks the messages of a degree by slot, the canonical form in order of the paths.
        slots = sorted(path.slot for path in paths if path.out == degree)
        blocks = rows.view(len(slots), channels, channels)
        order = [slots.index(path.slot) for path in paths if path.out == degree]
        state[f"{prefix}mix.{degree}"] = blocks[order].flatten(0, 1) / neighbors
    return {"paths": [[path.node, path.edge, path.out] for path in paths]}


def _density(record: Record, num_bessel: int) -> torch.Tensor:
    """The linear map whose square, through tanh, is a pair's share of the density."""
    matrices = e3nn_weights.radial_mlp(record.module("density_fn"))
    if [tuple(matrix.shape) for matrix in matrices] != [(num_bessel, 1)]:
        raise UnsupportedModelError(
            f"model: {record.path}.density_fn: expected one linear layer to one number"
        )
    return matrices[0]


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
    orders = [
        integer_order(f"{each.path}.correlation", each.number("correlation"), 1, MAX_ORDER)
        for each in contractions[: output_lmax + 1]
    ]
    highest = max(CUBIC, *orders)
    for degree in range(output_lmax + 1):
        basis, weights = _contraction(
            contractions[degree], orders[degree], degree, (lmax + 1) ** 2, highest
        )
        state[f"{prefix}product.{degree}.basis"] = basis
        state[f"{prefix}product.{degree}.weights"] = weights
        state[f"{prefix}output.{degree}"] = outputs[degree]
    return {"correlation": max(orders), "output_lmax": output_lmax}


def _contraction(
    record: Record, order: int, degree: int, size: int, highest: int
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
        check_large(record.path, *[size + 1] * highest)
        check_large(record.path, count, 2 * degree + 1, math.comb(size + highest, highest))
        bases.append(coupling_monomials(coupling, nu, highest))
        weights.append(weight)
    return reduce_rank(bases, weights)
