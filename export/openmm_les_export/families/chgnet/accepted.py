"""What is accepted in the arguments of a CHGNet-LES model saved by MatGL, in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les_export.checkpoints.accepted import ANY, OFF, AnyValue, check_options
from openmm_les_export.checkpoints.records import describe
from openmm_les_export.checkpoints.unpickle import SavedModel

_POTENTIAL, _NETWORK = "Potential", "CHGNet_LR"
#: What LES parameters are called among the arguments.
PREFIX = "les_"
#: One that older versions lack.
PREFACTOR = PREFIX + "norm_factor"
#: Arguments of the potential. What it computes beside the energy does not change the energy.
POTENTIAL: Mapping[str, Sequence[Any] | AnyValue] = {
    **dict.fromkeys(("model", "data_mean", "data_std", "element_refs"), ANY),
    **dict.fromkeys(("calc_forces", "calc_stresses", "calc_hessian", "calc_magmom"), ANY),
    "calc_repuls": OFF,
    "calc_BEC": (True,),  # without it there is no long-range energy
    **dict.fromkeys((PREFIX + name for name in ("sigma", "dl", "norm_factor")), ANY),
    **dict.fromkeys((PREFIX + name for name in ("remove_mean", "epsilon_factor")), ANY),
    PREFIX + "remove_self_interaction": ANY,
    PREFIX + "pbc": (True,),
    **dict.fromkeys(("zbl_trainable", "debug_mode", "return_charge"), ANY),
}
_SHARES = ("bond", "three_body_bond", "both", None)
#: Arguments of the network. Dropout is idle outside of a training.
NETWORK: Mapping[str, Sequence[Any] | AnyValue] = {
    "element_types": ANY,
    **dict.fromkeys(("dim_atom_embedding", "dim_bond_embedding", "dim_angle_embedding"), ANY),
    "dim_state_embedding": (None,),
    "dim_state_feats": (None,),
    **dict.fromkeys(("non_linear_bond_embedding", "non_linear_angle_embedding"), ANY),
    **dict.fromkeys(("cutoff", "threebody_cutoff", "cutoff_exponent"), ANY),
    **dict.fromkeys(("max_n", "max_f", "learn_basis", "num_blocks"), ANY),
    "shared_bond_weights": _SHARES,
    "layer_bond_weights": _SHARES,
    **dict.fromkeys(("atom_conv_hidden_dims", "bond_update_hidden_dims"), ANY),
    **dict.fromkeys(("bond_conv_hidden_dims", "angle_update_hidden_dims"), ANY),
    **dict.fromkeys(("conv_dropout", "final_dropout"), ANY),
    "final_mlp_type": ("mlp",),
    "final_hidden_dims": ANY,
    "pooling_operation": ("sum",),
    "readout_field": ("atom_feat",),
    "activation_type": ("swish",),
    "normalization": (None, "layer"),
    "normalize_hidden": ANY,
    "is_intensive": (False,),
    "num_targets": (1,),
    "num_site_targets": ANY,
    "task_type": ("regression",),
    "error_handling": ANY,
}
#: Options that not all versions of MatGL have.
_RECENT = {"error_handling"}


def check_arguments(saved: SavedModel) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Refuses what openmm-les does not implement.

    Args:
        saved: the opened files.

    Returns:
        The arguments of the network, and the LES parameters among those of the potential.

    Raises:
        ModelFileError: a model without LES, or none, or files of different models.
        UnsupportedModelError: names the option.
    """
    kind = saved.description.get("@class")
    if kind != _POTENTIAL:
        raise ModelFileError(
            f"model: model.json: expected a saved {_POTENTIAL}, got {describe(kind)}; save the "
            "potential, which holds element references and LES parameters, with its method save"
        )
    network = saved.arguments.get("model")
    if not isinstance(network, Mapping) or not isinstance(network.get("init_args"), Mapping):
        raise ModelFileError("model: model.pt: expected the arguments of a network, got none")
    stated = saved.description.get("kwargs")
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
    check_options("Potential", saved.arguments, POTENTIAL)
    check_options(_NETWORK, network["init_args"], NETWORK)
    missing = sorted(set(NETWORK) - set(network["init_args"]) - _RECENT)
    if missing:
        raise UnsupportedModelError(
            f"model: {_NETWORK}: expected option {missing[0]}, got none; this version of MatGL is "
            "not known"
        )
    les = {
        name.removeprefix(PREFIX): value
        for name, value in saved.arguments.items()
        if name.startswith(PREFIX) and name != PREFIX + "pbc"
    }
    return network["init_args"], les
