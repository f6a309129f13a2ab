"""What is accepted in the configurations of NequIP-LES and Allegro-LES checkpoints, in tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les_export.checkpoints.accepted import (
    Accepted,
    Options,
    any_value,
    check_options,
    off,
)
from openmm_les_export.checkpoints.records import describe
from openmm_les_export.families.les_parameters import LES_OPTIONS

#: What a configuration may ask nequip to call, for the model: the fork of 2025 and the extension.
FORK, EXTENSION = "nequip.model.NequIPGNNModel", "nequip_les.model.LESModel"
#: How models are trained, and whether the weights to use are an average kept beside the others.
TRAINING = {
    "nequip.train.EMALightningModule": True,
    "nequip.train.EMAConFIGLightningModule": True,
    "nequip.train.NequIPLightningModule": False,
    "nequip.train.ConFIGLightningModule": False,
}

_NONLINEARITIES = ({"e": "silu", "o": "tanh"},)
#: Options of all models. What is missing has nequip's default, the same in all versions.
_COMMON: Options = {
    "_target_": (FORK, EXTENSION),
    "base_model": ("nequip", "allegro"),
    **any_value(
        "LES les_args "  # checked by tables of their own
        "seed model_dtype do_derivatives compile_mode type_names r_max num_layers l_max parity "
        "avg_num_neighbors per_type_energy_scales per_type_energy_shifts "
        "per_type_energy_scales_trainable per_type_energy_shifts_trainable "
        "readout_mlp_hidden_layers_depth readout_mlp_hidden_layers_width"
    ),
    "readout_mlp_nonlinearity": ("silu",),
    "per_edge_type_cutoff": (None,),
    "pair_potential": (None,),
}
NEQUIP: Options = {
    **_COMMON,
    **any_value(
        "num_features type_embed_num_features radial_mlp_depth radial_mlp_width num_bessels "
        "bessel_trainable polynomial_cutoff_p"
    ),
    "use_les": (True,),
    "categorical_graph_field_embed": (None,),
    "convnet_sc": (True,),
    "convnet_resnet": (False,),
    "learnable_shift": (False,),
    "convnet_nonlinearity_type": ("gate",),
    "convnet_nonlinearity_scalars": _NONLINEARITIES,
    "convnet_nonlinearity_gates": _NONLINEARITIES,
}
#: Which irreps tensors have (``parity``) stands in the tensor products of the file.
ALLEGRO: Options = {
    **_COMMON,
    **any_value(
        "parity_setting tp_path_channel_coupling num_scalar_features num_tensor_features "
        "radial_chemical_embed radial_chemical_embed_dim scalar_embed_mlp_hidden_layers_depth "
        "scalar_embed_mlp_hidden_layers_width allegro_mlp_hidden_layers_depth "
        "allegro_mlp_hidden_layers_width"
    ),
    "scalar_embed_mlp_nonlinearity": ("silu",),
    "allegro_mlp_nonlinearity": ("silu",),
    "weight_individual_irreps": (True,),
    "scatter_features": (False,),
    "forward_normalize": (True,),
}
#: The embedding of distance and elements in Allegro: name of its options, and class.
EMBED = "radial_chemical_embed"
RADIAL = "allegro.nn.TwoBodyBesselScalarEmbed"
RADIAL_OPTIONS: Options = {
    "_target_": (RADIAL,),
    **any_value("num_bessels bessel_trainable polynomial_cutoff_p"),
}
#: Options of the extension.
LES: Options = any_value("les_args compute_bec bec_output_index")
#: Options of the les package, which nequip tells no elements: tables by element are idle. So is its
#: own network of charges: nequip's is used.
_IDLE = any_value("use_fixed_atomic_charges use_atomic_alpha")
#: Switches of latent moments, by the names that the extension reads.
_MOMENTS: Options = dict.fromkeys(
    ("use_dipole", "use_quadrupole", "use_induced_charge", "use_induced_dipole"), (True, False)
)
LES_ARGUMENTS: Options = {**LES_OPTIONS, **off("use_atomwise"), **_IDLE, **_MOMENTS}


def _is_checkpoint(content: Mapping[str, Any], network: str) -> bool:
    """Whether Lightning wrote it, of this network or one that is not known."""
    parts = (content.get(name) for name in ("hyper_parameters", "state_dict"))
    if not all(isinstance(part, Mapping) for part in parts):
        return False
    return (base_model(_model(content)) == "allegro") is (network == "allegro")


def _model(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the model, empty if there is none."""
    model = content["hyper_parameters"].get("model")
    return model if isinstance(model, Mapping) else {}


def base_model(model: Mapping[str, Any]) -> str:
    """Which network a configuration asks for: ``"nequip"`` or ``"allegro"``, if it is known."""
    return str(model.get("base_model", "nequip"))


NEQUIP_ACCEPTED = Accepted(
    file="or Allegro-LES '.ckpt' checkpoint as written by nequip-train",
    frameworks=("nequip.", "nequip_les.", "allegro.", "lightning."),
    recognises=lambda content: _is_checkpoint(content, "nequip"),
    kind=lambda content: str(_model(content).get("_target_")),
)
ALLEGRO_ACCEPTED = replace(
    NEQUIP_ACCEPTED, file="", recognises=lambda content: _is_checkpoint(content, "allegro")
)


def check_configuration(hyper: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The options of the model and those of the les package; others are refused."""
    model = hyper.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("_target_"), str):
        raise ModelFileError(
            "model: expected the configuration of a model in the checkpoint, got none; openmm-les "
            "reads checkpoints of nequip-train"
        )
    target = model["_target_"]
    if target == FORK and not model.get("use_les"):
        raise ModelFileError(
            f"model: a NequIP model without LES ({target}): openmm-les runs models with LES alone; "
            "nequip's own OpenMM integration runs it"
        )
    allegro = base_model(model) == "allegro"
    for path, name in _targets(model):
        accepted = {"": (FORK, EXTENSION), EMBED: (RADIAL,) if allegro else ()}
        if name not in accepted.get(path, ()):
            raise UnsupportedModelError(
                f"model: {path + '.' if path else ''}_target_ {describe(name)}: openmm-les does "
                "not implement it; nothing of it was imported"
            )
    check_options("model", model, ALLEGRO if allegro else NEQUIP)
    if allegro:
        check_options(EMBED, model.get(EMBED), RADIAL_OPTIONS)
    les = model.get("LES", {}) if target == EXTENSION else model
    if target == EXTENSION:
        check_options("LES", les, LES)
    arguments = les.get("les_args") or {}
    check_options("les_args", arguments, LES_ARGUMENTS)
    return model, arguments


def averaged(hyper: Mapping[str, Any]) -> bool | None:
    """Whether the model is an average of the weights; None where the checkpoint does not say."""
    information = hyper.get("info_dict")
    training = information.get("training_module") if isinstance(information, Mapping) else None
    if not isinstance(training, Mapping):
        return None
    target = training.get("_target_")
    if target not in TRAINING:
        raise UnsupportedModelError(
            f"model: training_module {describe(target)}: expected one of {sorted(TRAINING)}; "
            "please report it: which weights are the model depends on the training"
        )
    return TRAINING[target]


def _targets(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything that hydra would import, with its place."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if name == "_target_":
                yield path, entry
            else:
                yield from _targets(entry, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _targets(entry, f"{path}.{i}")
