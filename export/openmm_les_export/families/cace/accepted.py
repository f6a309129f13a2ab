"""What is accepted in a CACE-LES file: every class, submodule, tensor and option, in one table."""

from __future__ import annotations

from dataclasses import replace

from openmm_les_export.checkpoints.accepted import ANY, NUMBERED, OFF, Accepted, Block, listing
from openmm_les_export.checkpoints.pickled_names import CACE
from openmm_les_export.families.les_parameters import LES_BLOCKS

#: Classes of two packages that share their short name.
_ATOMWISE, _LES_ATOMWISE = "cace.modules.atomwise.Atomwise", "les.module.atomwise.Atomwise"
_DENSE, _LES_DENSE = "cace.modules.blocks.Dense", "les.module.blocks.Dense"

_MODEL = Block(
    options={
        **dict.fromkeys(("required_derivatives", "model_outputs", "keep_graph"), ANY),
        "do_postprocessing": OFF,
    },
    modules={
        "representation": ("Cace",),
        "input_modules": ("ModuleList",),
        "output_modules": ("ModuleList",),
        "postprocessors": ("ModuleList",),
    },
)

#: From positions to invariant features.
_REPRESENTATION: dict[str, Block] = {
    "Cace": Block(
        options={
            **dict.fromkeys(("zs", "nz", "n_atom_basis", "cutoff", "max_l", "max_nu"), ANY),
            **dict.fromkeys(("mp_norm_factor", "num_message_passing", "l_list"), ANY),
            **dict.fromkeys(("n_edge_channels", "n_radial_func", "n_radial_basis"), ANY),
            # Where it was trained, and what else the original returns.
            **dict.fromkeys(("device", "timeit", "keep_node_features_A", "forward_features"), ANY),
        },
        modules={
            "node_onehot": ("NodeEncoder",),
            "node_embedding_sender": ("NodeEmbedding",),
            "node_embedding_receiver": ("NodeEmbedding",),
            "edge_coding": ("EdgeEncoder",),
            "radial_basis": ("BesselRBF",),
            "cutoff_fn": ("PolynomialCutoff",),
            "angular_basis": ("AngularComponent",),
            "radial_transform": ("SharedRadialLinearTransform",),
            "symmetrizer": ("Symmetrizer",),
            "message_passing_list": ("ModuleList",),
        },
    ),
    "NodeEncoder": Block(options={"num_classes": ANY}, tensors=("index_map",)),
    "NodeEmbedding": Block(
        options=dict.fromkeys(("node_dim", "embedding_dim"), ANY), tensors=("embedding_weights",)
    ),
    "EdgeEncoder": Block(options={"directed": (True,)}),
    "BesselRBF": Block(
        options=dict.fromkeys(("n_rbf", "trainable"), ANY),
        tensors=("bessel_weights", "cutoff", "prefactor"),
    ),
    "PolynomialCutoff": Block(tensors=("p", "cutoff")),
    "AngularComponent": Block(
        options=dict.fromkeys(("l_max", "lxlylz_dict", "lxlylz_list", "lxlylz_index"), ANY)
    ),
    "SharedRadialLinearTransform": Block(
        options=dict.fromkeys(("max_l", "radial_dim", "radial_embedding_dim", "channel_dim"), ANY),
        modules={"weights": ("ParameterList",)},
        tensors=("angular_dim_groups",),
    ),
    "ParameterList": Block(tensors=(NUMBERED,)),
    "Symmetrizer": Block(
        options=dict.fromkeys(
            ("max_nu", "max_l", "l_list", "l_list_indices", "vec_dict_allnu", "indice_dict_allnu"),
            ANY,
        )
    ),
    "MessageBchi": Block(
        options={
            **dict.fromkeys(("n_in", "n_hidden", "n_layers", "activation"), ANY),
            **dict.fromkeys(("nl", "nlxlylz", "nc"), ANY),
            **dict.fromkeys(("residual", "use_batchnorm", "shared_channels", "shared_l"), OFF),
        },
        modules={"hnet": ("Sequential",)},
        tensors=("l_matrix", "nlxlylz"),
    ),
}

_NETWORK_OPTIONS = dict.fromkeys(
    ("n_in", "n_out", "n_hidden", "n_layers", "activation", "add_linear_nn", "bias"), ANY
)
#: Dense networks, as CACE and the les package each have them.
_NETWORKS: dict[str, Block] = {
    _ATOMWISE: Block(
        options={
            **_NETWORK_OPTIONS,
            # Names of what is computed; the reader follows those of the energy.
            **dict.fromkeys(("output_key", "model_outputs", "feature_key"), ANY),
            **dict.fromkeys(("per_atom_output_key", "descriptor_output_key"), ANY),
            "aggregation_mode": ("sum",),
            "residual": OFF,
            "use_batchnorm": OFF,
            "post_process": OFF,
        },
        modules={"outnet": ("Sequential",), "linear_nn": (_DENSE,)},
    ),
    _LES_ATOMWISE: replace(
        LES_BLOCKS["Atomwise"],
        strict=False,
        modules={"outnet": ("Sequential",), "linear_nn": (_LES_DENSE,)},
    ),
    "Sequential": Block(modules={NUMBERED: (_DENSE, _LES_DENSE)}),
    "Dense": Block(
        options={"activation": ANY, "use_batchnorm": OFF},
        modules={"linear": ("Linear",), "activation": ("Identity",)},
    ),
    "Linear": Block(
        options=dict.fromkeys(("in_features", "out_features"), ANY), tensors=("weight", "bias")
    ),
    "Identity": Block(),
}

#: From features to energy, charges and forces.
_OUTPUTS: dict[str, Block] = {
    "Preprocess": Block(),
    "LesWrapper": Block(
        options={
            **dict.fromkeys(("feature_key", "energy_key", "charge_key", "bec_key"), ANY),
            **dict.fromkeys(("model_outputs", "required_derivatives"), ANY),
            # What the original prints, not what the model is.
            **dict.fromkeys(("compute_bec", "bec_output_index"), ANY),
            "compute_energy": (True,),
        },
        modules={"les": ("Les",)},
    ),
    "FeatureAdd": Block(
        options=dict.fromkeys(("feature_keys", "output_key", "model_outputs"), ANY)
    ),
    "Forces": Block(
        options={
            **dict.fromkeys(("energy_key", "forces_key", "stress_key", "virial_key"), ANY),
            **dict.fromkeys(("calc_forces", "calc_stress"), ANY),
            **dict.fromkeys(("model_outputs", "required_derivatives"), ANY),
        }
    ),
    # What vintages of the les package have switched off, they may have.
    **{name: replace(LES_BLOCKS[name], strict=False) for name in ("Ewald", "BEC")},
    "Les": replace(
        LES_BLOCKS["Les"],
        strict=False,
        # Files older than the option do as if it were on.
        options={**LES_BLOCKS["Les"].options, "use_atomwise": (True,)},
        modules={**LES_BLOCKS["Les"].modules, "atomwise": (_LES_ATOMWISE,)},
    ),
}

_LISTS: dict[str, Block] = {
    "input_modules": listing("Preprocess"),
    "output_modules": listing("LesWrapper", _ATOMWISE, "FeatureAdd", "Forces"),
    "postprocessors": Block(),
    "message_passing_list": listing("ModuleList"),
    # The kinds of messages of one layer.
    NUMBERED: listing("MessageBchi"),
}

ACCEPTED = Accepted(
    CACE,
    {"NeuralNetworkPotential": _MODEL, **_REPRESENTATION, **_NETWORKS, **_OUTPUTS},
    _LISTS,
)
