"""Reads what a MACE model says of latent moments: dipoles, quadrupoles, kappa and alpha.

Also values by element, fixed charges and atomic polarizabilities, that its les package adds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from openmm_les_export.checkpoints.records import Record, describe, invalid, is_off, unsupported
from openmm_les_export.families import e3nn_weights
from openmm_les_export.families.canonical_form import State, store_network
from openmm_les_export.families.les_parameters import check_derived
from openmm_les_export.families.mace.conditions import linear_map
from openmm_les_export.families.mace.heads import Head
from openmm_les_export.families.mace.readouts import output_scale, scalar_readout

#: Lists of readouts, the switch without which each is idle (of quadrupoles the lists alone count),
#: and the degree of the features that they take.
LISTS = {
    "les_u_readouts": ("use_dipoles", 1),
    "les_quad_1o_readouts": (None, 1),
    "les_quad_2e_readouts": (None, 2),
    "les_kappa_readouts": ("use_induced_charges", 0),
    "les_alpha_readouts": ("use_induced_dipoles", 0),
    "les_alpha_1o_readouts": ("use_induced_dipoles", 1),
    "les_alpha_2e_readouts": ("use_induced_dipoles", 2),
}
#: Those that a model with their switch always has.
_ALWAYS = ("les_u_readouts", "les_kappa_readouts")
#: Files of the fork have no other name for the only map.
_FACTORS = ("scalar_to_weight_1o", "scalar_to_weight")

Readouts = Mapping[str, Sequence[Record]]


def moment_readouts(model: Record) -> Readouts:
    """The readouts in each of `LISTS` that is in use."""
    count = len(model.items("readouts"))
    found = {}
    for name, (switch, _) in LISTS.items():
        if switch is not None and is_off(model.value(switch, None)):
            continue
        items = model.items(name) if name in model.modules() else []
        if len(items) not in ((count,) if name in _ALWAYS and switch else (0, count)):
            raise unsupported(name, f"one readout for each of {count} of energies", len(items))
        if items:
            found[name] = items
    # Tensors have none where the features lack the degrees that they would take.
    induces = not is_off(model.value("use_induced_dipoles", None))
    isotropic = is_off(model.value("use_anisotropic_polarizability", None))
    if induces and isotropic and "les_alpha_readouts" not in found:
        raise unsupported("les_alpha_readouts", f"one readout for each of {count}", 0)
    return found


def highest_degree(readouts: Readouts) -> int:
    """Of the features that the readouts take."""
    return max((LISTS[name][1] for name in readouts), default=0)


def read_moments(
    model: Record, readouts: Readouts, state: State, layers: list[dict[str, Any]], head: Head
) -> dict[str, Any]:
    """Hyper-parameters of moments, if the model has any; weights go into the state."""
    for name, items in readouts.items():
        # A single readout of a deep model reads its last layer.
        for t, record in enumerate(items, len(layers) - len(items)):
            layers[t] |= _readout(name, record, state, f"layers.{t}.", head)
    bases = {"les_quad_2e_readouts": ("quadrupole_basis", "change_of_basis_quads", 5)}
    bases["les_alpha_2e_readouts"] = ("alpha_basis", "change_of_basis", 6)
    for name in bases.keys() & readouts.keys():
        place, buffer, count = bases[name]
        state[place] = model.tensor(buffer).to(torch.float64)
        if state[place].shape != (count, 3, 3):
            raise invalid(buffer, f"{count} tensors 3 x 3", tuple(state[place].shape))
    return _hyper(model, readouts)


def _hyper(model: Record, readouts: Readouts) -> dict[str, Any]:
    alpha = None
    if any(name.startswith("les_alpha") for name in readouts):
        tensors = not is_off(model.value("use_anisotropic_polarizability", None))
        alpha = "anisotropic" if tensors else "isotropic"
        if not tensors and list(
            filter(readouts.get, ("les_alpha_1o_readouts", "les_alpha_2e_readouts"))
        ):
            raise invalid("use_anisotropic_polarizability", "True for readouts of tensors", "False")
    moments = {
        "dipoles": "les_u_readouts" in readouts,
        "quadrupoles": any(name.startswith("les_quad") for name in readouts),
        "kappa": "les_kappa_readouts" in readouts,
        "alpha": alpha,
    }
    if not any(moments.values()):
        return {}
    squared = [
        name
        for name in ("kappa", "alpha")
        if moments[name] and not is_off(model.value(f"make_{name}_positive", None))
    ]
    scales = dict.fromkeys(("dipoles", "quadrupoles"), output_scale(model))
    for name in ("kappa", "alpha"):
        own = output_scale(model, f"les_{name}_scale")
        scales[name] = own**2 if name in squared else own
    scales = {name: scale for name, scale in scales.items() if moments[name]}
    found = {"moments": moments, "moment_scales": scales}
    return found | ({"squared_moments": squared} if squared else {})


def _readout(name: str, record: Record, state: State, prefix: str, head: Head) -> dict[str, str]:
    """Puts the weights of one readout into the state; of dyads, also returns their kind."""
    if name in ("les_kappa_readouts", "les_alpha_readouts"):
        stack = head.readout(scalar_readout(record), record)
        store_network(state, f"{prefix}{name.split('_')[1]}", stack)
    elif name == "les_u_readouts":
        (weight,) = _linear(record, [1])
        if len(weight):  # without vectors they are zero
            state[f"{prefix}dipole"] = weight
    elif name == "les_quad_2e_readouts":
        (state[f"{prefix}quadrupole"],) = _linear(record, [2])
    elif name == "les_alpha_2e_readouts":
        for degree, weight in zip((0, 2), _linear(record, [0, 2]), strict=True):
            state[f"{prefix}alpha_tensor.{degree}"] = weight
    else:
        place = "quadrupole_dyads" if "quad" in name else "alpha_dyads"
        return {place: _dyads(record, state, f"{prefix}{place}.")}
    return {}


def _linear(record: Record, degrees: list[int]) -> list[torch.Tensor]:
    """Weights [C, 1] of a linear readout that makes one representation of each degree."""
    if record.kind != "LinearReadoutBlock":
        raise unsupported(record.path, "a linear readout", record.kind)
    linear = record.module("linear")
    outputs = linear.irreps("irreps_out")
    if [(irrep.mul, irrep.l) for irrep in outputs] != [(1, degree) for degree in degrees]:
        wanted = f"one output of each degree in {degrees}"
        raise unsupported(linear.path, wanted, " + ".join(map(str, outputs)))
    maps = e3nn_weights.linear_by_degree(linear)
    return [maps[degree] for degree in degrees]


def _dyads(record: Record, state: State, prefix: str) -> str:
    """A readout of outer products: its weights go into the state, its kind is returned."""
    channels, _ = e3nn_weights.channel_count(record.irreps("irreps_in"), record.path)
    slices = {"scalar_slices": (0, channels), "vector_1o_slices": (channels, 4 * channels)}
    for name, expected in slices.items():
        if record.value(name, [expected]) != [expected]:
            raise unsupported(record.path_of(name), [expected], describe(record.value(name)))
    maps = e3nn_weights.linear_by_degree(record.module("linear"))
    scalars, vectors = maps[0], maps[1]
    width = vectors.shape[1]
    if record.kind == "LinearLesReadoutBlock":
        name = next((each for each in _FACTORS if each in record.modules()), _FACTORS[0])
        factors = [linear_map(record.module(name))]
        kind, outputs = "squares" if not is_off(record.value("make_w_pos")) else "factors", width
    else:
        mlp = record.module("mlp")
        if [layer.kind for layer in mlp.modules().values()] != ["Linear", "SiLU", "Linear"]:
            raise unsupported(mlp.path, "two linear maps with silu between them", "others")
        factors = [linear_map(mlp.module("0")), linear_map(mlp.module("2"))]
        kind, outputs = "matrix", width * width
    rows = scalars.shape[1]
    for weight, bias in factors:
        if weight.ndim != 2 or weight.shape[0] != rows or bias.shape != weight.shape[1:]:
            raise invalid(record.path, f"factors of {rows} numbers", tuple(weight.shape))
        rows = weight.shape[1]
    if rows != outputs:
        raise invalid(record.path, f"{outputs} factors", rows)
    state[f"{prefix}vectors"] = vectors
    for k, (weight, bias) in enumerate(factors):
        weight = scalars @ weight if k == 0 else weight
        if kind == "matrix" and k == len(factors) - 1:
            weight, bias = (_symmetric(values, width) for values in (weight, bias))
        state[f"{prefix}factors.{k}.weight"], state[f"{prefix}factors.{k}.bias"] = weight, bias
    return kind


def _symmetric(values: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers [..., width * width] that make symmetric matrices."""
    matrices = values.reshape(*values.shape[:-1], width, width)
    return (0.5 * (matrices + matrices.transpose(-1, -2))).flatten(-2)


def atomic_tables(les: Record, elements: list[int], has_alpha: bool) -> State:
    """Fixed charges [e] and polarizabilities [e A^2/V] by element, where they are switched on."""
    found = {}
    if not is_off(les.value("use_fixed_atomic_charges", None)):
        table = les.module("fixed_charges")
        check_derived(
            table, "normalization_factor", les.number("fixed_atomic_charges_scaling_factor")
        )
        found["fixed_charges"] = _table(table, "charge_dict", elements)
    if not is_off(les.value("use_atomic_alpha", None)):
        if not has_alpha:
            raise unsupported(
                les.path_of("use_atomic_alpha"), "False for models without induced dipoles", True
            )
        found["atomic_alpha"] = _table(les.module("atomic_alpha"), "alpha_dict", elements)
    return found


def _table(record: Record, name: str, elements: list[int]) -> torch.Tensor:
    """Values of a table by atomic number, times its factor, for the elements [Z]."""
    values = record.value(name)
    where = record.path_of(name)
    if not isinstance(values, dict) or not set(elements) <= set(values):
        raise invalid(where, f"values of the elements {elements}", describe(values))
    chosen = [values[number] for number in elements]
    if not all(type(value) in (int, float) and math.isfinite(value) for value in chosen):
        raise invalid(where, "finite numbers", describe(chosen))
    return record.number("normalization_factor") * torch.tensor(chosen, dtype=torch.float64)
