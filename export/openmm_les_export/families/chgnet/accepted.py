"""What is accepted in the arguments of a CHGNet-LES model saved by MatGL, in tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les_export.checkpoints.accepted import Accepted, Options, any_value, check_options, off
from openmm_les_export.checkpoints.records import describe, invalid, unsupported
from openmm_les_export.checkpoints.unpickle import ModelFile

_POTENTIAL, _NETWORK = "Potential", "CHGNet_LR"
#: Files of a model: the class, the arguments of constructors, tensors.
DESCRIPTION, ARGUMENTS, STATE = "model.json", "model.pt", "state.pt"
#: What LES parameters are called among the arguments.
PREFIX = "les_"
#: One that older versions lack.
PREFACTOR = PREFIX + "norm_factor"
#: Arguments of the potential. What it computes beside the energy does not change the energy.
POTENTIAL: Options = {
    **any_value(
        "model data_mean data_std element_refs calc_forces calc_stresses calc_hessian calc_magmom "
        "les_sigma les_dl les_norm_factor les_remove_mean les_epsilon_factor "
        "les_remove_self_interaction zbl_trainable debug_mode return_charge"
    ),
    **off("calc_repuls"),
    "calc_BEC": (True,),  # without it there is no long-range energy
    "les_pbc": (True,),
}
_SHARES = ("bond", "three_body_bond", "both", None)
#: Arguments of the network. Dropout is idle outside of a training.
NETWORK: Options = {
    **any_value(
        "element_types dim_atom_embedding dim_bond_embedding dim_angle_embedding "
        "non_linear_bond_embedding non_linear_angle_embedding cutoff threebody_cutoff "
        "cutoff_exponent max_n max_f learn_basis num_blocks atom_conv_hidden_dims "
        "bond_update_hidden_dims bond_conv_hidden_dims angle_update_hidden_dims conv_dropout "
        "final_dropout final_hidden_dims normalize_hidden num_site_targets error_handling"
    ),
    "dim_state_embedding": (None,),
    "dim_state_feats": (None,),
    "shared_bond_weights": _SHARES,
    "layer_bond_weights": _SHARES,
    "final_mlp_type": ("mlp",),
    "pooling_operation": ("sum",),
    "readout_field": ("atom_feat",),
    "activation_type": ("swish",),
    "normalization": (None, "layer"),
    "is_intensive": (False,),
    "num_targets": (1,),
    "task_type": ("regression",),
}
#: Options that not all versions of MatGL have.
_RECENT = {"error_handling"}


def _network(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network and its arguments, empty if there are none."""
    network = content[ARGUMENTS].get("model")
    return network if isinstance(network, Mapping) else {}


ACCEPTED = Accepted(
    file="directory as written by MatGL, with model.json, model.pt and state.pt",
    frameworks=("matgl.", "dgl.", "lightning."),
    members=(DESCRIPTION, ARGUMENTS, STATE),
    recognises=lambda content: True,
    kind=lambda content: str(_network(content).get("@class")),
)


def check_arguments(saved: ModelFile) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The arguments of the network, and the LES parameters among those of the potential.

    What openmm-les does not implement is refused.
    """
    kind = saved[DESCRIPTION].get("@class")
    if kind != _POTENTIAL:
        raise ModelFileError(
            f"model: model.json: expected a saved {_POTENTIAL}, got {describe(kind)}; save the "
            "potential, which holds element references and LES parameters, with its method save"
        )
    network = _network(saved.content)
    if not isinstance(network.get("init_args"), Mapping):
        raise invalid("model.pt", "the arguments of a network", "none")
    stated = saved[DESCRIPTION].get("kwargs")
    stated = stated.get("model") if isinstance(stated, Mapping) else None
    if not isinstance(stated, Mapping) or stated.get("@class") != network.get("@class"):
        raise ModelFileError(
            "model: model.json and model.pt are of different models; copy the directory again"
        )
    if network.get("@class") == "CHGNet":
        raise ModelFileError(
            "model: a plain CHGNet model without LES; openmm-les runs models with LES alone"
        )
    if network.get("@class") != _NETWORK:
        raise UnsupportedModelError(
            f"model: expected the network {_NETWORK}, got {describe(network.get('@class'))}; "
            "openmm-les does not implement it; nothing of it was imported"
        )
    check_options("Potential", saved[ARGUMENTS], POTENTIAL)
    check_options(_NETWORK, network["init_args"], NETWORK)
    missing = sorted(set(NETWORK) - set(network["init_args"]) - _RECENT)
    if missing:
        raise unsupported(
            _NETWORK, f"option {missing[0]}", "none; this version of MatGL is not known"
        )
    les = {
        name.removeprefix(PREFIX): value
        for name, value in saved[ARGUMENTS].items()
        if name.startswith(PREFIX) and name != PREFIX + "pbc"
    }
    return network["init_args"], les
