"""What is accepted in a MACE-LES file: every class, submodule, tensor and option, in one table.

All vintages: the fork of 2025 and mace-torch. What a vintage does not have may be missing.
"""

from __future__ import annotations

from dataclasses import replace

from openmm_les_export.checkpoints.accepted import (
    NUMBERED,
    OFF,
    Accepted,
    Block,
    any_value,
    listing,
    modules,
    off,
    within,
)
from openmm_les_export.families.les_parameters import LES_BLOCKS
from openmm_les_export.families.mace.conditions import CONDITION_BLOCKS
from openmm_les_export.families.mace.moments import LISTS

#: Of latent moments.
_SWITCHES = (
    *("use_dipoles", "use_quads", "use_induced_charges", "use_induced_dipoles"),
    *("use_anisotropic_polarizability", "make_alpha_positive", "make_kappa_positive"),
)
_MODEL = Block(
    options={
        "pair_repulsion": (True, None, False),
        "apply_cutoff": (True,),
        **off("lammps_mliap use_agnostic_product use_so3 edge_irreps use_edge_irreps_first"),
        **dict.fromkeys(_SWITCHES, (True, *OFF)),
        # The reader chooses a head; the couplings themselves are in the file;
        # use_last_readout_only shows in the number of readouts.
        **any_value("heads use_reduced_cg use_last_readout_only readout_input_dims"),
        **any_value("compute_bec bec_output_index"),  # what the original prints
        # The scales are read; the others show in the lists of readouts.
        **any_value(
            "les_output_scale les_kappa_scale les_alpha_scale alpha_irreps "
            "alpha_1o_nonlinear_readout alpha_1o_linear_w_pos"
        ),
        **any_value("embedding_specs"),  # the reader takes those of the module
    },
    modules=modules(
        "node_embedding:LinearNodeEmbeddingBlock radial_embedding:RadialEmbeddingBlock "
        "spherical_harmonics:SphericalHarmonics atomic_energies_fn:AtomicEnergiesBlock "
        "pair_repulsion_fn:ZBLBasis interactions:ModuleList products:ModuleList "
        "readouts:ModuleList les_readouts:ModuleList scale_shift:ScaleShiftBlock les:Les "
        "joint_embedding:GenericJointEmbedding embedding_readout:LinearReadoutBlock"
    )
    | {name: ["ModuleList"] for name in LISTS},
    tensors=(
        "atomic_numbers",
        "r_max",
        "num_interactions",
        "change_of_basis",
        "change_of_basis_quads",
    ),
)

#: The electrostatics. The charges come from the readouts: its own network is idle.
_LES = LES_BLOCKS["les.les.Les"]
_ELECTROSTATICS: dict[str, Block] = {
    **LES_BLOCKS,
    "les.les.Les": replace(
        _LES,
        options={
            **_LES.options,
            **off("use_atomwise"),
            **dict.fromkeys(("use_fixed_atomic_charges", "use_atomic_alpha"), (True, *OFF)),
        },
        modules={**_LES.modules, "atomwise": ("Atomwise", "_DummyAtomwise")},
    ),
    "les.les._DummyAtomwise": Block(),
}

_OTHER_LAYERS = "cueq_config oeq_config"
_INTERACTION = Block(
    options={
        **any_value(
            "node_attrs_irreps node_feats_irreps edge_attrs_irreps edge_feats_irreps target_irreps "
            "hidden_irreps edge_irreps irreps_out avg_num_neighbors radial_MLP"
        ),
        **off(_OTHER_LAYERS),
    },
    modules=modules(
        "linear_up:Linear conv_tp:TensorProduct conv_tp_weights:FullyConnectedNet linear:Linear "
        "skip_tp:FullyConnectedTensorProduct reshape:reshape_irreps"
    ),
    tensors=("avg_num_neighbors",),  # an option of older files
)
_DENSITY_INTERACTION = replace(
    _INTERACTION, modules={**_INTERACTION.modules, "density_fn": ("FullyConnectedNet",)}
)
_INTERACTIONS = {
    "RealAgnosticInteractionBlock": _INTERACTION,
    "RealAgnosticResidualInteractionBlock": _INTERACTION,
    "RealAgnosticDensityInteractionBlock": _DENSITY_INTERACTION,
    "RealAgnosticDensityResidualInteractionBlock": _DENSITY_INTERACTION,
}
_READOUTS = {
    "LinearReadoutBlock": Block(modules=modules("linear:Linear")),
    "NonLinearReadoutBlock": Block(
        any_value("hidden_irreps num_heads"),  # heads are checked by the reader
        modules("linear_1:Linear non_linearity:Activation linear_2:Linear"),
    ),
}
_DYADS = any_value("irreps_in scalar_slices vector_1o_slices n_scalar n_1o cdim")
_DYAD_READOUTS = {
    "LinearLesReadoutBlock": Block(
        {
            **_DYADS,
            **off("ir_mul vector_1e_slices scalar_to_weight_1e"),
            "make_w_pos": (True, *OFF),
            "n_1e": (0,),
        },
        modules("linear:Linear scalar_to_weight_1o:Linear scalar_to_weight:Linear"),
    ),
    "NonLinearLesReadoutBlock": Block(
        {**_DYADS, **off("ir_mul")}, modules("linear:Linear mlp:Sequential")
    ),
}
_CONTRACTION = Block(
    options={**any_value("num_features coupling_irreps"), "correlation": (1, 2, 3, 4)},
    modules=modules(
        # The first three are traced einsums: code, which is never read.
        "contractions_weighting:ModuleList contractions_features:ModuleList "
        "graph_opt_main:reduce_graph_module weights:ParameterList"
    ),
    tensors=(
        *(f"U_matrix_{nu}" for nu in (1, 2, 3, 4)),
        "weights_max",
        # Marks of orders without couplings, whose U matrices are zero: nothing to do.
        *(f"weights_{name}_zeroed" for name in ("0", "1", "2", "max")),
    ),
)
_BLOCKS: dict[str, Block] = {
    **_INTERACTIONS,
    **_READOUTS,
    **_DYAD_READOUTS,
    "LinearNodeEmbeddingBlock": Block(modules=modules("linear:Linear")),
    "RadialEmbeddingBlock": Block(
        options={**any_value("out_dim"), "apply_cutoff": (True,)},
        modules=modules(
            "bessel_fn:BesselBasis cutoff_fn:PolynomialCutoff "
            "distance_transform:AgnesiTransform|SoftTransform"
        ),
    ),
    "AtomicEnergiesBlock": Block(tensors=("atomic_energies",)),
    "ScaleShiftBlock": Block(tensors=("scale", "shift")),
    "EquivariantProductBasisBlock": Block(
        options={"use_sc": (True, False), **off(f"use_agnostic_product {_OTHER_LAYERS}")},
        modules=modules("symmetric_contractions:SymmetricContraction linear:Linear"),
    ),
}
_RADIAL: dict[str, Block] = {
    "AgnesiTransform": Block(tensors=("q", "p", "a", "covalent_radii")),
    "SoftTransform": Block(tensors=("alpha", "covalent_radii")),
    "ZBLBasis": Block(tensors=("c", "p", "covalent_radii", "a_exp", "a_prefactor")),
    "BesselBasis": Block(tensors=("bessel_weights", "r_max", "prefactor")),
    "PolynomialCutoff": Block(tensors=("p", "r_max")),
}
_MACE: dict[str, Block] = {
    "models.MACELES": _MODEL,
    "extensions.MACELES": _MODEL,
    **within("blocks", _BLOCKS),
    **within("radial", _RADIAL),
    "irreps_tools.reshape_irreps": Block({**any_value("irreps dims muls"), **off(_OTHER_LAYERS)}),
    "symmetric_contraction.SymmetricContraction": Block(
        any_value("irreps_in irreps_out internal_weights shared_weights"),
        modules("contractions:ModuleList"),
    ),
    "symmetric_contraction.Contraction": _CONTRACTION,
}

_LINEAR = "irreps_in irreps_out instructions weight_numel internal_weights shared_weights"
_TENSOR_PRODUCT = Block(
    any_value(f"irreps_in1 irreps_in2 {_LINEAR}"), tensors=("weight", "output_mask")
)
_E3NN: dict[str, Block] = {
    "math._normalize_activation.normalize2mom": Block(any_value("f cst")),
    "nn._activation.Activation": Block(
        any_value("irreps_in irreps_out paths"), modules("acts:ModuleList")
    ),
    "nn._fc.FullyConnectedNet": Block(any_value("hs"), modules(f"{NUMBERED}:_Layer")),
    "nn._fc._Layer": Block(
        {**any_value("h_in h_out var_in var_out"), **off("act")},
        modules("act:normalize2mom"),
        ("weight",),
    ),
    "o3._linear.Linear": Block(
        {**any_value(_LINEAR), "bias_numel": (0,)}, tensors=("weight", "bias", "output_mask")
    ),
    "o3._spherical_harmonics.SphericalHarmonics": Block(
        {"normalize": (True,), "normalization": ("component",), **any_value("irreps_in irreps_out")}
    ),
    "o3._tensor_product._sub.FullyConnectedTensorProduct": _TENSOR_PRODUCT,
    "o3._tensor_product._tensor_product.TensorProduct": _TENSOR_PRODUCT,
}

ACCEPTED = Accepted(
    file="'.model' file as written by mace-torch's training script",
    frameworks=("mace.", "e3nn.", "les.", "torch.nn.", "torch.fx.", "numpy."),
    roots=frozenset({"mace.modules.models.MACELES", "mace.modules.extensions.MACELES"}),
    blocks={
        **within("mace.modules", _MACE),
        **within("e3nn", _E3NN),
        **_ELECTROSTATICS,
        **CONDITION_BLOCKS,
        "torch.nn.modules.container.ParameterList": Block(tensors=(NUMBERED,)),
        "torch.fx.graph_module.reduce_graph_module": Block(),
    },
    lists={
        "interactions": listing(*_INTERACTIONS),
        "products": listing("EquivariantProductBasisBlock"),
        "readouts": listing(*_READOUTS),
        "les_readouts": listing(*_READOUTS),
        **dict.fromkeys(LISTS, listing(*_READOUTS)),
        **dict.fromkeys(
            ("les_quad_1o_readouts", "les_alpha_1o_readouts"), listing(*_DYAD_READOUTS)
        ),
        "contractions": listing("Contraction"),
        "acts": listing("normalize2mom"),
        "contractions_weighting": listing("reduce_graph_module"),
        "contractions_features": listing("reduce_graph_module"),
    },
    values=frozenset(
        {
            "e3nn.o3._irreps.Irrep",
            "e3nn.o3._irreps.Irreps",
            "e3nn.o3._irreps._MulIr",
            "e3nn.o3._linear.Instruction",
            "e3nn.o3._tensor_product._instruction.Instruction",
            "torch.fx._symbolic_trace.Tracer",
            "torch.nn.functional.silu",
            "torch.nn.modules.container.ModuleList",
        }
    ),
    plain=dict.fromkeys(
        ("mace.modules.models.MACE", "mace.modules.models.ScaleShiftMACE"),
        "a plain MACE model without LES; openmm-ml runs it by itself (potential 'mace')",
    ),
    unsupported=within(
        "mace.modules",
        {
            "blocks.RealAgnosticAttResidualInteractionBlock": "attention in messages",
            "blocks.RealAgnosticResidualNonLinearInteractionBlock": "nonlinear messages",
            "radial.ChebychevBasis": "the Chebyshev radial basis",
            "radial.GaussianBasis": "the Gaussian radial basis",
            "radial.RadialMLP": "radial networks with biases and layer norms",
            "extensions.PolarMACE": "PolarMACE electrostatics",
            "wrapper_ops.CuEquivarianceConfig": "cuEquivariance layers (convert them to e3nn)",
            "wrapper_ops.OEQConfig": "OpenEquivariance layers (convert them to e3nn)",
        },
    )
    | {"torch._C._VariableFunctionsClass": "an activation (gate) other than silu"},
    # How mace-torch's other gates (torch.tanh, torch.abs) are pickled.
    pairs=frozenset({"builtins.getattr", "torch._C._VariableFunctionsClass"}),
)
