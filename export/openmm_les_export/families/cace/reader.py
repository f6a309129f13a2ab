"""Reads CACE-LES models: a ``.pth`` file becomes a `CanonicalModel`.

No more than torch is needed. The form is that of ``docs/reference/formats/cace.md``, the formulas
are those of Cheng, npj Comput. Mater. 10, 157 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import InputError, ModelFileError, UnsupportedModelError
from openmm_les.networks.cace.family import complete
from openmm_les.networks.parameters import check_large
from openmm_les_export.atomic_energies import read_atomic_energies
from openmm_les_export.checkpoints.configuration import check_elements
from openmm_les_export.checkpoints.records import Record, describe, invalid, unsupported
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.cace.accepted import ACCEPTED
from openmm_les_export.families.canonical_form import State, canonical_form, cutoff_order
from openmm_les_export.families.les_parameters import les_parameters, refuse_multipoles
from openmm_les_export.options import ModelOptions

#: Where the isolated-atom energies come from, as artifacts state it.
GIVEN = "--atomic-energies"
#: Of exponents in angular monomials.
_HIGHEST = 11
_SILU = "torch.nn.functional.silu"


def read(opened: ModelFile, options: ModelOptions) -> CanonicalModel:
    """The canonical form of a CACE-LES model, see `canonical_model`."""
    given = options.atomic_energies
    atomic_energies = None if given is None else read_atomic_energies(given)
    model = opened.root
    refuse_multipoles(model)
    ACCEPTED.check(model)
    energy, charge = _outputs(model)
    representation = model.module("representation")
    elements = check_elements("zs", representation.value("zs"))
    references = _references(elements, atomic_energies)

    state: State = {"reference_energies": references}
    hyper: dict[str, Any] = {
        "elements": elements,
        **_radial_basis(representation, state),
        **_polynomials(representation),
    }
    channels, functions = _channels(representation, state, elements, hyper)
    sizes = (channels, len(hyper["invariants"]), functions)
    layers = _messages(representation, state, hyper, sizes)
    hyper["num_messages"] = layers
    _network(energy, state, "energy", _feature_order(layers + 1, *sizes))
    scale = charge.number("output_scaling_factor")
    _network(charge, state, "charge", _feature_order(layers + 1, *sizes), scale)
    return canonical_form(
        opened,
        hyper=hyper,
        state=state,
        les=les_parameters(_output(model, "LesWrapper").module("les")),
        vintage="CACE",
        dtype=representation.module("node_embedding_sender").tensor("embedding_weights").dtype,
        references=GIVEN,
    )


def _output(model: Record, kind: str) -> Record:
    """The output module of a class, of which there is one."""
    found = [record for record in model.items("output_modules") if record.kind == kind]
    if len(found) != 1:
        raise unsupported(
            "output_modules", f"one {kind}", f"{len(found)}; this layout is not known"
        )
    return found[0]


def _outputs(model: Record) -> tuple[Record, Record]:
    """The networks of the energy and of the charges, found from the energy that is returned."""
    outputs = model.items("output_modules")
    if not any(record.kind == "LesWrapper" for record in outputs):
        raise ModelFileError(
            "model: a CACE model without LES: expected a LesWrapper among its output modules, got "
            "none; openmm-les runs models with LES alone"
        )
    wrapper, total = _output(model, "LesWrapper"), _output(model, "FeatureAdd")
    forces = _output(model, "Forces").value("energy_key")
    if total.value("output_key") != forces:
        raise UnsupportedModelError(
            f"model: option {total.path}.output_key: expected the energy of the forces, "
            f"{describe(forces)}, got {describe(total.value('output_key'))}"
        )
    heads = {r.value("output_key"): r for r in outputs if r.kind == "Atomwise"}
    keys = list(total.value("feature_keys"))
    own = [key for key in keys if key in heads]
    if len(own) != 1 or sorted(keys) != sorted([own[0], wrapper.value("energy_key")]):
        raise UnsupportedModelError(
            f"model: option {total.path}.feature_keys: expected one energy of the network and that "
            f"of LES, got {describe(keys)}"
        )
    energy, charge = heads[own[0]], wrapper.module("les.atomwise")
    for record in (energy, wrapper):
        if record.value("feature_key") != "node_feats":
            raise UnsupportedModelError(
                f"model: option {record.path}.feature_key: expected 'node_feats', got "
                f"{describe(record.value('feature_key'))}"
            )
    return energy, charge


def _references(elements: list[int], energies: Mapping[int, float] | None) -> torch.Tensor:
    missing = [z for z in elements if energies is None or z not in energies]
    if energies is None or missing:
        raise InputError(
            "atomic energies: a CACE-LES file holds none; give those that were subtracted from its "
            f"training data [eV], as in --atomic-energies {','.join(f'{z}:E' for z in missing)}, "
            "or a JSON or YAML file (zeros if nothing was subtracted)"
        )
    return torch.tensor([energies[z] for z in elements], dtype=torch.float64)


def _radial_basis(representation: Record, state: State) -> dict[str, Any]:
    basis, envelope = (representation.module(name) for name in ("radial_basis", "cutoff_fn"))
    cutoff = envelope.scalar("cutoff")
    searched = representation.number("cutoff")
    if not math.isclose(cutoff, searched, rel_tol=1e-6):
        raise invalid("cutoff", "one cutoff", f"{cutoff} and {searched}")
    state["bessel_frequencies"] = basis.tensor("bessel_weights").to(torch.float64).flatten()
    return {
        "cutoff": cutoff,
        "num_bessel": state["bessel_frequencies"].numel(),
        "bessel_prefactor": basis.scalar("prefactor"),
        "cutoff_order": cutoff_order(envelope),
    }


def _polynomials(representation: Record) -> dict[str, Any]:
    """Angular monomials, and the invariants made of them (eq. 8 of the paper)."""
    angular, symmetrizer = (
        representation.module(name) for name in ("angular_basis", "symmetrizer")
    )
    monomials = [[int(e) for e in entry] for entry in angular.value("lxlylz_list")]
    where, got = f"{angular.path}.lxlylz_list", describe(monomials)
    if not all(0 <= e <= _HIGHEST for entry in monomials for e in entry):
        raise unsupported(where, f"exponents of 0 to {_HIGHEST}", got)
    if not complete([(x, y, z) for x, y, z in monomials]):
        raise invalid(where, "all monomials of each degree", got)
    return {
        "monomials": monomials,
        "invariants": [[[[0], 1.0]], *_invariants(symmetrizer, len(monomials))],
    }


def _invariants(symmetrizer: Record, size: int) -> list[list[list[Any]]]:
    """Terms of all invariants of order 2 and above: indices of monomials, and a factor."""
    found = []
    try:
        for nu in range(2, int(symmetrizer.number("max_nu")) + 1):
            for terms in symmetrizer.value("indice_dict_allnu")[nu].values():
                own = [([int(i) for i in factors], float(c)) for factors, c in terms]
                if not all(len(f) == nu and 0 <= min(f) <= max(f) < size for f, _ in own):
                    raise ValueError(f"expected products of {nu} of {size} monomials")
                found.append([[factors, c] for factors, c in own])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"model: {symmetrizer.path}.indice_dict_allnu: expected the terms of every invariant, "
            f"got something else ({type(error).__name__}: {error})"
        ) from error
    return found


def _channels(
    representation: Record, state: State, elements: list[int], hyper: dict[str, Any]
) -> tuple[int, int]:
    """Embeddings and radial transform; returns the numbers of channels and radial functions."""
    index = representation.module("node_onehot").tensor("index_map")
    if not all(z < len(index) and int(index[z]) == i for i, z in enumerate(elements)):
        raise ModelFileError(f"model: node_onehot.index_map: expected the order of zs, {elements}")
    for name in ("sender", "receiver"):
        weights = representation.module(f"node_embedding_{name}").tensor("embedding_weights")
        state[name] = weights.to(torch.float64)
    widths = {name: state[name].shape[-1] for name in ("sender", "receiver")}
    for name, width in widths.items():
        _expect(state[name], (len(elements), width), f"node_embedding_{name}")
    channels = widths["sender"] * widths["receiver"]
    transforms = representation.module("radial_transform.weights").tensors()
    degrees = max(sum(entry) for entry in hyper["monomials"]) + 1
    if list(transforms) != [str(d) for d in range(degrees)]:
        raise invalid("radial_transform.weights", f"those of {degrees} degrees", list(transforms))
    functions = transforms["0"].shape[1]
    for degree, weight in transforms.items():
        shape = (hyper["num_bessel"], functions, channels)
        _expect(weight, shape, f"radial_transform.weights.{degree}")
        state[f"radial.{degree}"] = weight.to(torch.float64).permute(2, 0, 1)
    return channels, functions


def _expect(tensor: torch.Tensor, shape: tuple[int, ...], name: str) -> None:
    if tuple(tensor.shape) != shape:
        raise invalid(name, f"shape {shape}", tuple(tensor.shape))


def _messages(
    representation: Record, state: State, hyper: dict[str, Any], sizes: tuple[int, int, int]
) -> int:
    """Networks that weight what neighbours contribute in further layers; returns their number."""
    degrees = max(sum(entry) for entry in hyper["monomials"]) + 1
    layers = representation.items("message_passing_list")
    for t, layer in enumerate(layers):
        kinds = list(layer.modules().values())
        if len(kinds) != 1:
            raise unsupported(
                layer.path, "messages of one kind, MessageBchi", [record.kind for record in kinds]
            )
        scale, order = representation.number("mp_norm_factor"), _feature_order(1, *sizes)
        _network(kinds[0], state, f"message.{t}", order, scale, outputs=degrees * sizes[0])
    return len(layers)


def _feature_order(layers: int, channels: int, invariants: int, functions: int) -> torch.Tensor:
    """Where the features of the canonical form (layer, channel, invariant, function) stand."""
    shape = (functions, invariants, channels, layers)
    check_large("node_feats", *shape)
    return torch.arange(math.prod(shape)).view(shape).permute(3, 2, 1, 0).flatten()


def _network(
    record: Record,
    state: State,
    prefix: str,
    order: torch.Tensor,
    scale: float = 1.0,
    outputs: int = 1,
) -> None:
    """A dense network on features: linear maps with silu between them, one beside if there is one.

    It is in ``outnet`` (and ``linear_nn``), or ``hnet``; the scale is a factor of its outputs.
    """
    modules = record.modules()
    name = "hnet" if "hnet" in modules else "outnet"
    layers = record.items(name)
    width = len(order)
    for k, layer in enumerate(layers):
        last = k == len(layers) - 1
        activation = _activation(layer)
        if activation != ("Identity" if last else "silu"):
            raise unsupported(layer.path, "silu after every layer but the last", activation)
        weight, bias = _linear(layer, width)
        if k == 0:
            weight = weight[order]
        factor = scale if last else 1.0
        state[f"{prefix}.{k}.weight"], state[f"{prefix}.{k}.bias"] = factor * weight, factor * bias
        width = weight.shape[1]
    if width != outputs or not layers:
        raise invalid(record.path, f"{outputs} outputs", width)
    beside = modules.get("linear_nn")
    if (beside is not None) != bool(record.value("add_linear_nn", False)):
        raise ModelFileError(
            f"model: {record.path}: add_linear_nn and linear_nn contradict each other"
        )
    if beside is not None:
        if _activation(beside) != "Identity":
            raise unsupported(beside.path, "no activation", _activation(beside))
        weight, bias = _linear(beside, len(order))
        if weight.shape[1] != outputs:
            raise invalid(beside.path, f"{outputs} outputs", weight.shape[1])
        state[f"{prefix}.linear.weight"] = scale * weight[order]
        state[f"{prefix}.linear.bias"] = scale * bias


def _activation(layer: Record) -> str:
    """Name of what follows a linear map, ``"Identity"`` for nothing."""
    if "activation" in layer.modules():
        return layer.module("activation").kind
    value = layer.value("activation")
    if value is None:
        return "Identity"
    return "silu" if getattr(value, "qualified_name", "") == _SILU else describe(value)


def _linear(layer: Record, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [in, out] and bias [out], zero if there is none."""
    linear = layer.module("linear")
    weight = linear.tensor("weight").to(torch.float64)
    _expect(weight, (weight.shape[0], inputs), f"{linear.path}.weight")
    bias = linear.tensors().get("bias")
    if bias is None:
        return weight.T, torch.zeros(len(weight), dtype=torch.float64)
    _expect(bias, (len(weight),), f"{linear.path}.bias")
    return weight.T, bias.to(torch.float64)
