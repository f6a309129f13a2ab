"""What is accepted in a MACE-LES file: every class, submodule, tensor and option, in one table.

Anything that is not in the table is refused by name, so that a variant of MACE which computes
something else is never mistaken for one that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openmm_les.errors import UnsupportedModelError
from openmm_les_export.records import Record, describe
from openmm_les_export.unpickle import KNOWN_OPTIONS


class _Any:
    """Every value is accepted: it is read elsewhere, or changes nothing in the result."""

    def __contains__(self, value: object) -> bool:
        return True


ANY = _Any()
NUMBERED = "*"


@dataclass(frozen=True)
class Block:
    """What a module of one class may hold.

    Attributes:
        options: plain attributes and their accepted values.
        modules: submodules and the classes they may have; ``NUMBERED`` stands for all other names.
        tensors: parameters and buffers; ``NUMBERED`` stands for all other names.
        strict: refuse an unknown attribute even if it is switched off (None, False, empty).
    """

    options: Mapping[str, Sequence[Any] | _Any] = field(default_factory=dict)
    modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tensors: Sequence[str] = ()
    strict: bool = False


def _listing(*kinds: str) -> Block:
    return Block(modules={NUMBERED: kinds})


_OFF = (None, False)
_READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock")
_NONE_CONFIG: dict[str, Sequence[Any] | _Any] = {"cueq_config": (None,), "oeq_config": (None,)}

#: The model itself. What a vintage (fork of 2025, mace-torch) does not have is fine.
_MODEL = Block(
    strict=True,
    options={
        "heads": ANY,  # their number is checked by the reader
        "lammps_mliap": _OFF,
        "apply_cutoff": (True,),
        "edge_irreps": (None,),
        "use_edge_irreps_first": _OFF,
        "use_reduced_cg": ANY,  # the couplings themselves are in the file
        "use_agnostic_product": _OFF,
        "use_so3": _OFF,
        "use_last_readout_only": ANY,  # shows in the number of readouts
        "compute_bec": ANY,  # what the original prints, not what the model is
        "bec_output_index": ANY,
        "readout_input_dims": ANY,
    },
    modules={
        "node_embedding": ("LinearNodeEmbeddingBlock",),
        "radial_embedding": ("RadialEmbeddingBlock",),
        "spherical_harmonics": ("SphericalHarmonics",),
        "atomic_energies_fn": ("AtomicEnergiesBlock",),
        "interactions": ("ModuleList",),
        "products": ("ModuleList",),
        "readouts": ("ModuleList",),
        "les_readouts": ("ModuleList",),
        "scale_shift": ("ScaleShiftBlock",),
        "les": ("Les",),
    },
    tensors=("atomic_numbers", "r_max", "num_interactions"),
)

#: The electrostatics. Options of the atomwise network are idle: the charges come from the readouts.
_LES: dict[str, Block] = {
    "Les": Block(
        strict=True,
        options={
            **dict.fromkeys(
                ("n_layers", "n_hidden", "add_linear_nn", "output_scaling_factor"), ANY
            ),
            **dict.fromkeys(("sigma", "dl", "remove_self_interaction", "norm_factor"), ANY),
            **dict.fromkeys(("remove_mean", "epsilon_factor"), ANY),
            "use_atomwise": _OFF,
            "use_fixed_atomic_charges": _OFF,
            "fixed_atomic_charges_scaling_factor": ANY,  # idle without the option above
            "use_atomic_alpha": _OFF,
            "use_epsilon_r_scaling": _OFF,
        },
        modules={"atomwise": ("Atomwise", "_DummyAtomwise"), "ewald": ("Ewald",), "bec": ("BEC",)},
    ),
    "Ewald": Block(
        strict=True,
        options={
            **dict.fromkeys(("sigma", "dl", "norm_factor", "remove_self_interaction"), ANY),
            **dict.fromkeys(("sigma_sq_half", "k_sq_max", "twopi", "twopi_sq"), ANY),
            "use_epsilon_r_scaling": _OFF,
        },
    ),
    "BEC": Block(
        strict=True,
        options=dict.fromkeys(("remove_mean", "epsilon_factor", "normalization_factor"), ANY),
    ),
    "_DummyAtomwise": Block(strict=True),
    "Atomwise": Block(
        strict=True,
        options={
            **dict.fromkeys(("n_in", "n_out", "n_hidden", "n_layers", "activation"), ANY),
            **dict.fromkeys(("add_linear_nn", "bias", "output_scaling_factor"), ANY),
            "outnet": (None,),  # built at the first use: None means never used
        },
    ),
}

#: mace-torch's blocks.
_BLOCKS: dict[str, Block] = {
    "LinearNodeEmbeddingBlock": Block(modules={"linear": ("Linear",)}),
    "RadialEmbeddingBlock": Block(
        options={"out_dim": ANY, "apply_cutoff": (True,)},
        modules={"bessel_fn": ("BesselBasis",), "cutoff_fn": ("PolynomialCutoff",)},
    ),
    "BesselBasis": Block(tensors=("bessel_weights", "r_max", "prefactor")),
    "PolynomialCutoff": Block(tensors=("p", "r_max")),
    "AtomicEnergiesBlock": Block(tensors=("atomic_energies",)),
    "ScaleShiftBlock": Block(tensors=("scale", "shift")),
    "RealAgnosticResidualInteractionBlock": Block(
        options={
            **dict.fromkeys(("node_attrs_irreps", "node_feats_irreps", "edge_attrs_irreps"), ANY),
            **dict.fromkeys(("edge_feats_irreps", "target_irreps", "hidden_irreps"), ANY),
            **dict.fromkeys(("edge_irreps", "irreps_out", "avg_num_neighbors", "radial_MLP"), ANY),
            **_NONE_CONFIG,
        },
        modules={
            "linear_up": ("Linear",),
            "conv_tp": ("TensorProduct",),
            "conv_tp_weights": ("FullyConnectedNet",),
            "linear": ("Linear",),
            "skip_tp": ("FullyConnectedTensorProduct",),
            "reshape": ("reshape_irreps",),
        },
    ),
    "reshape_irreps": Block(
        options={**dict.fromkeys(("irreps", "dims", "muls"), ANY), **_NONE_CONFIG}
    ),
    "EquivariantProductBasisBlock": Block(
        options={"use_sc": (True, False), "use_agnostic_product": _OFF, **_NONE_CONFIG},
        modules={"symmetric_contractions": ("SymmetricContraction",), "linear": ("Linear",)},
    ),
    "SymmetricContraction": Block(
        options=dict.fromkeys(
            ("irreps_in", "irreps_out", "internal_weights", "shared_weights"), ANY
        ),
        modules={"contractions": ("ModuleList",)},
    ),
    "Contraction": Block(
        options={
            **dict.fromkeys(("num_features", "coupling_irreps"), ANY),
            "correlation": (1, 2, 3),
        },
        modules={
            # Traced einsums: code, which is never read.
            "contractions_weighting": ("ModuleList",),
            "contractions_features": ("ModuleList",),
            "graph_opt_main": ("reduce_graph_module",),
            "weights": ("ParameterList",),
        },
        tensors=(
            *(f"U_matrix_{nu}" for nu in (1, 2, 3)),
            "weights_max",
            # Marks of orders without couplings, whose U matrices are zero: nothing to do.
            *(f"weights_{name}_zeroed" for name in ("0", "1", "max")),
        ),
    ),
    "ParameterList": Block(tensors=(NUMBERED,)),
    "LinearReadoutBlock": Block(modules={"linear": ("Linear",)}),
    "NonLinearReadoutBlock": Block(
        options={"hidden_irreps": ANY, "num_heads": (1,)},
        modules={
            "linear_1": ("Linear",),
            "non_linearity": ("Activation",),
            "linear_2": ("Linear",),
        },
    ),
}

#: e3nn's layers.
_TENSOR_PRODUCT = Block(
    options=dict.fromkeys(
        (
            *("irreps_in1", "irreps_in2", "irreps_out", "instructions", "weight_numel"),
            *("internal_weights", "shared_weights"),
        ),
        ANY,
    ),
    tensors=("weight", "output_mask"),
)
_LAYERS: dict[str, Block] = {
    "SphericalHarmonics": Block(
        options={
            "normalize": (True,),
            "normalization": ("component",),
            "irreps_in": ANY,
            "irreps_out": ANY,
        }
    ),
    "Linear": Block(
        options={
            **dict.fromkeys(("irreps_in", "irreps_out", "instructions", "weight_numel"), ANY),
            **dict.fromkeys(("internal_weights", "shared_weights"), ANY),
            "bias_numel": (0,),
        },
        tensors=("weight", "bias", "output_mask"),
    ),
    "TensorProduct": _TENSOR_PRODUCT,
    "FullyConnectedTensorProduct": _TENSOR_PRODUCT,
    "FullyConnectedNet": Block(options={"hs": ANY}, modules={NUMBERED: ("_Layer",)}),
    "_Layer": Block(
        options={"act": (None,), **dict.fromkeys(("h_in", "h_out", "var_in", "var_out"), ANY)},
        modules={"act": ("normalize2mom",)},
        tensors=("weight",),
    ),
    "Activation": Block(
        options=dict.fromkeys(("irreps_in", "irreps_out", "paths"), ANY),
        modules={"acts": ("ModuleList",)},
    ),
    "normalize2mom": Block(options={"f": ANY, "cst": ANY}),
    "reduce_graph_module": Block(),
}

_LISTS: dict[str, Block] = {
    "interactions": _listing("RealAgnosticResidualInteractionBlock"),
    "products": _listing("EquivariantProductBasisBlock"),
    "readouts": _listing(*_READOUTS),
    "les_readouts": _listing(*_READOUTS),
    "contractions": _listing("Contraction"),
    "acts": _listing("normalize2mom"),
    "contractions_weighting": _listing("reduce_graph_module"),
    "contractions_features": _listing("reduce_graph_module"),
}

ACCEPTED: dict[str, Block] = {"MACELES": _MODEL, **_LES, **_BLOCKS, **_LAYERS}


def check_options(record: Record) -> None:
    """Refuses a model that has anything openmm-les does not implement.

    Args:
        record: the model, or a module in it.

    Raises:
        UnsupportedModelError: names the option, what was expected and what the file has.
    """
    if record.kind == "ModuleList":
        block = _LISTS[record.path.rsplit(".", 1)[-1]]
    else:
        block = ACCEPTED[record.kind]
    _check_attributes(record, block)
    for name in record.tensors():
        if name not in block.tensors and NUMBERED not in block.tensors:
            raise _unknown(record, name, "tensor")
    for name, module in record.modules().items():
        accepted = block.modules.get(name, block.modules.get(NUMBERED))
        if accepted is None:
            raise _unknown(record, name, f"submodule {_option_name(module)}")
        if module.kind not in accepted:
            raise UnsupportedModelError(
                f"model: {module.path}: expected {' or '.join(accepted)}, got "
                f"{_option_name(module)}; openmm-les does not implement it"
            )
        check_options(module)


def _check_attributes(record: Record, block: Block) -> None:
    for name, value in record.attributes().items():
        accepted = block.options.get(name)
        if accepted is None:
            if block.strict or not _is_off(value):
                raise _unknown(record, name, f"attribute with value {describe(value)}")
        elif accepted is not ANY and not _is_one_of(value, accepted):
            where = f"{record.path}.{name}" if record.path else name
            raise UnsupportedModelError(
                f"model: option {where}: expected {' or '.join(map(repr, accepted))}, got "  # type: ignore[arg-type]
                f"{describe(value)}; openmm-les does not implement it"
            )


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ((), [], {}, "")


def _is_one_of(value: Any, accepted: Sequence[Any] | _Any) -> bool:
    # Types are compared too: 0 is not False, and a tensor or record is never an option's value.
    return any(type(value) is type(item) and value == item for item in accepted)  # type: ignore[union-attr]


def _option_name(module: Record) -> str:
    known = KNOWN_OPTIONS.get(module.qualified_name)
    return f"{module.kind} ({known})" if known else module.kind


def _unknown(record: Record, name: str, what: str) -> UnsupportedModelError:
    where = f"{record.path}.{name}" if record.path else name
    return UnsupportedModelError(
        f"model: {where}: unknown {what} of {record.kind}; openmm-les cannot tell what it changes "
        "in the model"
    )
