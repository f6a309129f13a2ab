"""What is accepted in a CACE-LES file: every class, submodule, tensor and option, in one table."""

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

#: Classes of two packages that share their short name.
_ATOMWISE, _LES_ATOMWISE = "cace.modules.atomwise.Atomwise", "les.module.atomwise.Atomwise"
_DENSE, _LES_DENSE = "cace.modules.blocks.Dense", "les.module.blocks.Dense"

_LES = LES_BLOCKS["les.les.Les"]

#: Whole models: a potential, or a sum of several on one representation.
_MODELS: dict[str, Block] = {
    "cace.models.atomistic.NeuralNetworkPotential": Block(
        {**any_value("required_derivatives model_outputs keep_graph"), **off("do_postprocessing")},
        modules(
            "representation:Cace input_modules:ModuleList output_modules:ModuleList "
            "postprocessors:ModuleList"
        ),
    ),
    "cace.models.combined.CombinePotential": Block(
        any_value("potential_keys out_keys operation required_derivatives"),
        modules("models:ModuleList"),
    ),
}
#: How a sum is called in it: a method that pickle looks up by name, or a function. The reader takes
#: only these two, and calls neither.
SUM, LOOK_UP = "default_operation", "builtins.getattr"

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
        any_value(
            "max_nu max_l l_list l_list_indices vec_dict_allnu indice_dict_allnu "
            "indices_initialized"
        )
    ),
    "cace.modules.interaction.NodeMemory": Block(
        any_value("max_l radial_embedding_dim channel_dim"),
        modules("memory_coef:ParameterList"),
        ("angular_dim_groups",),
    ),
    "cace.modules.interaction.MessageAr": Block(
        any_value("radial_embedding_dim channel_dim"),
        modules("prefactor:ParameterList invr0:ParameterList"),
        ("angular_dim_groups",),
    ),
    "cace.modules.interaction.MessageBchi": Block(
        {
            **any_value("n_in n_hidden n_layers activation nl nlxlylz nc shared_channels shared_l"),
            **off("residual use_batchnorm"),
        },
        modules("hnet:Sequential"),
        ("l_matrix", "nlxlylz"),
    ),
}

_DENSE_BLOCK = Block(
    {**any_value("activation"), **off("use_batchnorm")},
    modules("linear:Linear activation:Identity batchnorm:Identity"),
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
                # Older files have one key, that of the energy.
                "feature_key output_key energy_key charge_key bec_key model_outputs "
                "required_derivatives "
                # What the original prints, not what the model is.
                "compute_bec bec_output_index"
            ),
            "compute_energy": (True,),
        },
        modules("les:Les"),
    ),
    "cace.modules.ewald.EwaldPotential": Block(
        {
            **any_value(
                "dl sigma sigma_sq_half k_sq_max twopi twopi_sq norm_factor "
                "remove_self_interaction feature_key output_key model_outputs "
                "external_field_direction"
            ),
            # What the original prints.
            **any_value("compute_field"),
            "aggregation_mode": ("sum",),
            "exponent": (1, 1.0),
            **dict.fromkeys(("external_field", "charge_neutral_lambda"), (*OFF, 0, 0.0)),
        }
    ),
    "cace.modules.polarization.Polarization": Block(
        any_value(
            "charge_key output_key output_index phase_key model_outputs remove_mean pbc "
            "normalization_factor"
        )
    ),
    # Born charges from the polarization, which nothing else depends on.
    "cace.modules.grad.Grad": Block(
        any_value("y_key x_key output_key model_outputs required_derivatives")
    ),
    "cace.modules.polarization.Dephase": Block(
        any_value("input_key input_index output_key phase_key model_outputs")
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
    file="'.pth' file as written by a CACE training with LES",
    frameworks=("cace.", "les.", "torch.nn.", "torch.device", "numpy."),
    roots=frozenset(_MODELS),
    blocks={**_MODELS, **_REPRESENTATION, **_OUTPUTS, **_NETWORKS},
    lists={
        "models": listing("NeuralNetworkPotential"),
        "input_modules": listing("Preprocess"),
        "output_modules": listing(
            *("LesWrapper", "EwaldPotential", _ATOMWISE, "FeatureAdd", "Forces"),
            *("Polarization", "Grad", "Dephase"),
        ),
        "postprocessors": Block(),
        "message_passing_list": listing("ModuleList"),
        # The kinds of messages of one layer.
        NUMBERED: listing("NodeMemory", "MessageAr", "MessageBchi"),
    },
    values=frozenset(
        {
            *("torch.device", "torch.nn.functional.silu"),
            *within("torch.nn.modules.container", dict.fromkeys(("ModuleList", "ModuleDict"))),
            *(LOOK_UP, f"cace.models.combined.{SUM}"),
        }
    ),
    plain={
        "cace.representations.cace_representation.Cace": (
            "a CACE representation alone, without the networks of energy and charges; save the "
            "whole model (torch.save(model, ...))"
        )
    },
    unsupported=within(
        "cace.modules",
        {
            "interaction.MessageArMLP": "messages of the A features with a network of the distance",
            "radial.GaussianRBF": "the Gaussian radial basis",
            "radial.GaussianRBFCentered": "the Gaussian radial basis",
            "radial.ExponentialDecayRBF": "the radial basis of exponentials",
            "cutoff.CosineCutoff": "the cosine cutoff",
            "cutoff.MollifierCutoff": "the mollifier cutoff",
            "cutoff.SwitchFunction": "the switching function",
            "polarization.FixedCharge": "fixed charges",
            "zbl.ZBL": "ZBL pair repulsion",
        },
    ),
)
