"""What is accepted in a CACE-LES file: every class, submodule, tensor and option, in one table."""

from __future__ import annotations

from dataclasses import replace

from openmm_les_export.checkpoints.accepted import (
    NUMBERED,
    Accepted,
    Block,
    any_value,
    listing,
    modules,
    off,
    within,
)
from openmm_les_export.families.les_parameters import LES_BLOCKS

#: Classes of two packages that share their short name.
_ATOMWISE, _LES_ATOMWISE = "cace.modules.atomwise.Atomwise", "les.module.atomwise.Atomwise"
_DENSE, _LES_DENSE = "cace.modules.blocks.Dense", "les.module.blocks.Dense"

_POTENTIAL, _LES = "cace.models.atomistic.NeuralNetworkPotential", LES_BLOCKS["les.les.Les"]

_MODEL = Block(
    {**any_value("required_derivatives model_outputs keep_graph"), **off("do_postprocessing")},
    modules(
        "representation:Cace input_modules:ModuleList output_modules:ModuleList "
        "postprocessors:ModuleList"
    ),
)

#: From positions to invariant features.
_REPRESENTATION: dict[str, Block] = {
    "cace.representations.cace_representation.Cace": Block(
        any_value(
            "zs nz n_atom_basis cutoff max_l max_nu mp_norm_factor num_message_passing l_list "
            "n_edge_channels n_radial_func n_radial_basis "
            # Where it was trained, and what else the original returns.
            "device timeit keep_node_features_A forward_features"
        ),
        modules(
            "node_onehot:NodeEncoder node_embedding_sender:NodeEmbedding "
            "node_embedding_receiver:NodeEmbedding edge_coding:EdgeEncoder radial_basis:BesselRBF "
            "cutoff_fn:PolynomialCutoff angular_basis:AngularComponent "
            "radial_transform:SharedRadialLinearTransform symmetrizer:Symmetrizer "
            "message_passing_list:ModuleList"
        ),
    ),
    "cace.modules.type.NodeEncoder": Block(any_value("num_classes"), tensors=("index_map",)),
    "cace.modules.type.NodeEmbedding": Block(
        any_value("node_dim embedding_dim"), tensors=("embedding_weights",)
    ),
    "cace.modules.type.EdgeEncoder": Block({"directed": (True,)}),
    "cace.modules.radial.BesselRBF": Block(
        any_value("n_rbf trainable"), tensors=("bessel_weights", "cutoff", "prefactor")
    ),
    "cace.modules.cutoff.PolynomialCutoff": Block(tensors=("p", "cutoff")),
    "cace.modules.angular.AngularComponent": Block(
        any_value("l_max lxlylz_dict lxlylz_list lxlylz_index")
    ),
    "cace.modules.radial_transform.SharedRadialLinearTransform": Block(
        any_value("max_l radial_dim radial_embedding_dim channel_dim"),
        modules("weights:ParameterList"),
        ("angular_dim_groups",),
    ),
    "torch.nn.modules.container.ParameterList": Block(tensors=(NUMBERED,)),
    "cace.modules.symmetrize_basis.Symmetrizer": Block(
        any_value("max_nu max_l l_list l_list_indices vec_dict_allnu indice_dict_allnu")
    ),
    "cace.modules.interaction.MessageBchi": Block(
        {
            **any_value("n_in n_hidden n_layers activation nl nlxlylz nc"),
            **off("residual use_batchnorm shared_channels shared_l"),
        },
        modules("hnet:Sequential"),
        ("l_matrix", "nlxlylz"),
    ),
}

_DENSE_BLOCK = Block(
    {**any_value("activation"), **off("use_batchnorm")},
    modules("linear:Linear activation:Identity"),
)
#: Dense networks, as CACE and the les package each have them.
_NETWORKS: dict[str, Block] = {
    _ATOMWISE: Block(
        {
            **any_value(
                "n_in n_out n_hidden n_layers activation add_linear_nn bias "
                # Names of what is computed; the reader follows those of the energy.
                "output_key model_outputs feature_key per_atom_output_key descriptor_output_key"
            ),
            "aggregation_mode": ("sum",),
            **off("residual use_batchnorm post_process"),
        },
        modules(f"outnet:Sequential linear_nn:{_DENSE}"),
    ),
    _LES_ATOMWISE: replace(
        LES_BLOCKS[_LES_ATOMWISE], modules=modules(f"outnet:Sequential linear_nn:{_LES_DENSE}")
    ),
    "torch.nn.modules.container.Sequential": listing(_DENSE, _LES_DENSE),
    _DENSE: _DENSE_BLOCK,
    _LES_DENSE: _DENSE_BLOCK,
    "torch.nn.modules.linear.Linear": Block(
        any_value("in_features out_features"), tensors=("weight", "bias")
    ),
    "torch.nn.modules.linear.Identity": Block(),
}

#: From features to energy, charges and forces.
_OUTPUTS: dict[str, Block] = {
    "cace.modules.preprocess.Preprocess": Block(),
    "cace.modules.les_wrapper.LesWrapper": Block(
        {
            **any_value(
                "feature_key energy_key charge_key bec_key model_outputs required_derivatives "
                # What the original prints, not what the model is.
                "compute_bec bec_output_index"
            ),
            "compute_energy": (True,),
        },
        modules("les:Les"),
    ),
    "cace.modules.feature_mix.FeatureAdd": Block(
        any_value("feature_keys output_key model_outputs")
    ),
    "cace.modules.forces.Forces": Block(
        any_value(
            "energy_key forces_key stress_key virial_key calc_forces calc_stress model_outputs "
            "required_derivatives"
        )
    ),
    **LES_BLOCKS,
    "les.les.Les": replace(
        _LES,
        # Files older than the option do as if it were on.
        options={**_LES.options, "use_atomwise": (True,)},
        modules={**_LES.modules, "atomwise": (_LES_ATOMWISE,)},
    ),
}

ACCEPTED = Accepted(
    file="'.pth' file as written by a CACE training with the les package",
    frameworks=("cace.", "les.", "torch.nn.", "numpy."),
    roots=frozenset({_POTENTIAL}),
    blocks={_POTENTIAL: _MODEL, **_REPRESENTATION, **_OUTPUTS, **_NETWORKS},
    lists={
        "input_modules": listing("Preprocess"),
        "output_modules": listing("LesWrapper", _ATOMWISE, "FeatureAdd", "Forces"),
        "postprocessors": Block(),
        "message_passing_list": listing("ModuleList"),
        # The kinds of messages of one layer.
        NUMBERED: listing("MessageBchi"),
    },
    values=frozenset(
        {"torch.device", "torch.nn.functional.silu", "torch.nn.modules.container.ModuleList"}
    ),
    unsupported=within(
        "cace.modules",
        {
            "interaction.NodeMemory": "messages that keep an atom's own features (M)",
            "interaction.MessageAr": "messages of the A features (Ar)",
            "interaction.MessageArMLP": "messages of the A features (Ar)",
            "radial.GaussianRBF": "the Gaussian radial basis",
            "radial.GaussianRBFCentered": "the Gaussian radial basis",
            "radial.ExponentialDecayRBF": "the radial basis of exponentials",
            "cutoff.CosineCutoff": "the cosine cutoff",
            "cutoff.MollifierCutoff": "the mollifier cutoff",
            "cutoff.SwitchFunction": "the switching function",
            "ewald.EwaldPotential": "CACE's own Ewald sum in place of the les package",
            "zbl.ZBL": "ZBL pair repulsion",
        },
    ),
)
