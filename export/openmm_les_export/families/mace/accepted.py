"""What is accepted in a MACE-LES file: every class, submodule, tensor and option, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from openmm_les_export.checkpoints.accepted import (
    ANY,
    NUMBERED,
    OFF,
    Accepted,
    AnyValue,
    Block,
    listing,
)
from openmm_les_export.checkpoints.pickled_names import MACE
from openmm_les_export.families.les_parameters import LES_BLOCKS

_READOUTS = ("LinearReadoutBlock", "NonLinearReadoutBlock")
_NONE_CONFIG: dict[str, Sequence[Any] | AnyValue] = {"cueq_config": (None,), "oeq_config": (None,)}

#: The model itself. What a vintage (fork of 2025, mace-torch) does not have is fine.
_MODEL = Block(
    strict=True,
    options={
        "heads": ANY,  # the reader chooses one
        "pair_repulsion": (True, *OFF),
        "lammps_mliap": OFF,
        "apply_cutoff": (True,),
        "edge_irreps": (None,),
        "use_edge_irreps_first": OFF,
        "use_reduced_cg": ANY,  # the couplings themselves are in the file
        "use_agnostic_product": OFF,
        "use_so3": OFF,
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
        "pair_repulsion_fn": ("ZBLBasis",),
        "interactions": ("ModuleList",),
        "products": ("ModuleList",),
        "readouts": ("ModuleList",),
        "les_readouts": ("ModuleList",),
        "scale_shift": ("ScaleShiftBlock",),
        "les": ("Les",),
    },
    tensors=("atomic_numbers", "r_max", "num_interactions"),
)

#: The electrostatics. The charges come from the readouts: its own network is idle.
_LES: dict[str, Block] = {
    **LES_BLOCKS,
    "Les": replace(
        LES_BLOCKS["Les"],
        options={**LES_BLOCKS["Les"].options, "use_atomwise": OFF},
        modules={
            **LES_BLOCKS["Les"].modules,
            "atomwise": ("Atomwise", "_DummyAtomwise"),
        },
    ),
    "_DummyAtomwise": Block(strict=True),
    "Atomwise": replace(
        LES_BLOCKS["Atomwise"],
        # Built at the first use: None means never used.
        options={**LES_BLOCKS["Atomwise"].options, "outnet": (None,)},
        modules={},
    ),
}

_INTERACTIONS = ("RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock")
_INTERACTION = Block(
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
)
_DENSITY_INTERACTIONS = (
    "RealAgnosticDensityInteractionBlock",
    "RealAgnosticDensityResidualInteractionBlock",
)
_DENSITY_INTERACTION = replace(
    _INTERACTION, modules={**_INTERACTION.modules, "density_fn": ("FullyConnectedNet",)}
)

#: mace-torch's blocks.
_BLOCKS: dict[str, Block] = {
    "LinearNodeEmbeddingBlock": Block(modules={"linear": ("Linear",)}),
    "RadialEmbeddingBlock": Block(
        options={"out_dim": ANY, "apply_cutoff": (True,)},
        modules={
            "bessel_fn": ("BesselBasis",),
            "cutoff_fn": ("PolynomialCutoff",),
            "distance_transform": ("AgnesiTransform", "SoftTransform"),
        },
    ),
    "AgnesiTransform": Block(tensors=("q", "p", "a", "covalent_radii")),
    "SoftTransform": Block(tensors=("alpha", "covalent_radii")),
    "ZBLBasis": Block(tensors=("c", "p", "covalent_radii", "a_exp", "a_prefactor")),
    "BesselBasis": Block(tensors=("bessel_weights", "r_max", "prefactor")),
    "PolynomialCutoff": Block(tensors=("p", "r_max")),
    "AtomicEnergiesBlock": Block(tensors=("atomic_energies",)),
    "ScaleShiftBlock": Block(tensors=("scale", "shift")),
    **dict.fromkeys(_INTERACTIONS, _INTERACTION),
    **dict.fromkeys(_DENSITY_INTERACTIONS, _DENSITY_INTERACTION),
    "reshape_irreps": Block(
        options={**dict.fromkeys(("irreps", "dims", "muls"), ANY), **_NONE_CONFIG}
    ),
    "EquivariantProductBasisBlock": Block(
        options={"use_sc": (True, False), "use_agnostic_product": OFF, **_NONE_CONFIG},
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
            "correlation": (1, 2, 3, 4),
        },
        modules={
            # Traced einsums: code, which is never read.
            "contractions_weighting": ("ModuleList",),
            "contractions_features": ("ModuleList",),
            "graph_opt_main": ("reduce_graph_module",),
            "weights": ("ParameterList",),
        },
        tensors=(
            *(f"U_matrix_{nu}" for nu in (1, 2, 3, 4)),
            "weights_max",
            # Marks of orders without couplings, whose U matrices are zero: nothing to do.
            *(f"weights_{name}_zeroed" for name in ("0", "1", "2", "max")),
        ),
    ),
    "ParameterList": Block(tensors=(NUMBERED,)),
    "LinearReadoutBlock": Block(modules={"linear": ("Linear",)}),
    "NonLinearReadoutBlock": Block(
        options={"hidden_irreps": ANY, "num_heads": ANY},  # heads are checked by the reader
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
    "interactions": listing(*_INTERACTIONS, *_DENSITY_INTERACTIONS),
    "products": listing("EquivariantProductBasisBlock"),
    "readouts": listing(*_READOUTS),
    "les_readouts": listing(*_READOUTS),
    "contractions": listing("Contraction"),
    "acts": listing("normalize2mom"),
    "contractions_weighting": listing("reduce_graph_module"),
    "contractions_features": listing("reduce_graph_module"),
}

ACCEPTED = Accepted(MACE, {"MACELES": _MODEL, **_LES, **_BLOCKS, **_LAYERS}, _LISTS)
