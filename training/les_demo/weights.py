"""Weights of the demonstration models: a start from a smaller model, and energies of elements.

Of models with scalar features and two layers; the order of weights is that of mace-torch.
"""

import math

import numpy as np
import torch

#: Axes of the weights: inputs (large letters) and outputs of channels, radial and readout units;
#: elements, degrees, others.
AXES = {
    "node_embedding.linear.weight": "zc",
    "linear_up.weight": "Cc",
    "conv_tp_weights.layer0.weight": "or",
    "conv_tp_weights.layer1.weight": "Rr",
    "conv_tp_weights.layer2.weight": "Rr",
    "conv_tp_weights.layer3.weight": "Rdc",
    "skip_tp.weight": "Czc",
    "weights_max": "zoc",
    "weights.0": "zoc",
    "readouts.0.linear.weight": "C1",
    "linear_1.weight": "Cm",
    "linear_2.weight": "M1",
    "products.0.linear.weight": "Cc",
    "products.1.linear.weight": "Cc",
    "interactions.0.linear.weight": "dCc",
    "interactions.1.linear.weight": "dCc",
}
LATENT_READOUTS = ("les_readouts", "les_alpha_readouts")


def channels_of(model: torch.nn.Module) -> int:
    """Features of each atom."""
    return model.readouts[0].linear.weight.numel()


def tensors_of(model: torch.nn.Module) -> dict[str, tuple[str, torch.Tensor]]:
    """Axes and weights by name, in the order and in the memory of the parameters."""
    sizes = {
        "z": len(model.atomic_numbers),
        "d": math.isqrt(model.spherical_harmonics.irreps_out.dim),
        "c": channels_of(model),
        "r": model.interactions[0].conv_tp_weights.layer1.weight.shape[0],
        "m": model.readouts[1].linear_2.weight.numel(),
        "1": 1,
        "o": -1,
    }
    found = {}
    for name, weight in model.named_parameters():
        axes = next(axes for end, axes in AXES.items() if name.endswith(end))
        found[name] = axes, weight.data.view([sizes[axis.lower()] for axis in axes])
    return found


def take_weights(model: torch.nn.Module, earlier: torch.nn.Module) -> None:
    """Starts from a model that may have fewer channels and hidden units.

    Those that are new give nothing to those that were there: energies, forces and charges are the
    earlier model's (Chen, Goodfellow and Shlens, arXiv:1511.05641 (2016), for the idea).
    """
    weights = tensors_of(earlier)
    with torch.no_grad():
        for name, (axes, new) in tensors_of(model).items():
            old = weights[name][1]
            inputs = [k for k, axis in enumerate(axes) if axis.isupper()]
            if inputs:  # which mace divides by the root of their number
                new[..., : old.shape[-1]] = 0.0
                old = old * math.sqrt(new.shape[inputs[0]] / old.shape[inputs[0]])
            new[tuple(slice(size) for size in old.shape)] = old
        model.scale_shift.load_state_dict(earlier.scale_shift.state_dict())
    for own, other in zip(model.interactions, earlier.interactions, strict=True):
        own.avg_num_neighbors = other.avg_num_neighbors
    free(model, spare_feature(earlier))


def spare_feature(model: torch.nn.Module) -> int:
    """The feature of the first layer that the second layer needs least."""
    with torch.no_grad():
        channels = channels_of(model)
        up = model.interactions[1].linear_up.weight.view(channels, -1)
        skip = model.interactions[1].skip_tp.weight.view(channels, -1)
        made = model.products[0].linear.weight.view(-1, channels).norm(dim=0)
        return int((made * (up.norm(dim=1) + skip.norm(dim=1))).argmin())


def free(model: torch.nn.Module, feature: int) -> None:
    """Keeps a feature of the first layer for its energy alone."""
    readouts = [getattr(model, name)[0].linear for name in LATENT_READOUTS if hasattr(model, name)]
    channels = channels_of(model)
    with torch.no_grad():
        for module in (
            model.interactions[1].linear_up,
            model.interactions[1].skip_tp,
            *readouts,
        ):
            module.weight.view(channels, -1)[feature] = 0.0


def add_constants(model: torch.nn.Module, feature: int, constants: np.ndarray) -> None:
    """Adds an energy to the atoms of each element, through the feature that is free for it [eV]."""
    count = len(model.atomic_numbers)
    with torch.no_grad():
        elements = model.node_embedding(torch.eye(count)).double()
        readout = model.readouts[0].linear.weight
        channels = channels_of(model)
        readout[feature] = 1.0 if abs(readout[feature]) < 0.1 else readout[feature]
        a_unit = float(model.scale_shift.scale * readout[feature]) / math.sqrt(channels)
        skip = model.interactions[0].skip_tp.weight.view(channels, count, channels)
        for z, constant in enumerate(constants):
            own = elements[z] / elements[z].square().sum()
            skip[:, z, feature] += (math.sqrt(channels * count) * constant / a_unit * own).float()


def take_references(model: torch.nn.Module, references: np.ndarray) -> None:
    """Makes the energies of a model those relative to `references`, energies of the elements [eV].

    Its own ones become zero.
    """
    block = model.atomic_energies_fn
    own = block.atomic_energies.double().numpy().ravel()
    add_constants(model, spare_feature(model), own - references)
    block.atomic_energies = torch.zeros_like(block.atomic_energies, dtype=torch.float32)
