"""Short-range networks for inference: plain ``nn.Module`` code, scripted or compiled as it stands.

No module here imports a training framework. Every block has a ``forward`` that returns its output
together with the tensors its hand-written ``backward`` needs. Importing the package imports no
torch: `registry` says which families there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openmm_les.errors import InputError
from openmm_les.networks.registry import charge_channels, families

if TYPE_CHECKING:
    import torch

    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les.networks.protocol import Network

__all__ = ["build_network"]


def build_network(
    canonical: CanonicalModel,
    species: Sequence[int],
    *,
    dtype: torch.dtype,
    exact_radial: bool,
    fold: bool,
    few_kernels: bool = False,
) -> Network[Any]:
    """The short-range network of a model's family.

    Args:
        species: indices of the elements to keep, in the order in which atoms will be sorted.
        exact_radial: evaluate radial networks instead of tables (for double precision).
        fold: spend memory on products of weights to save time at each call.
        few_kernels: do more arithmetic in fewer kernels, for systems so small that launches cost
            more; needs `fold`.
    """
    network: Network[Any] = families()[canonical.family].load("network")(
        canonical.hyper,
        canonical.state,
        species,
        dtype=dtype,
        exact_radial=exact_radial,
        fold=fold,
        few_kernels=few_kernels,
    )
    stated = charge_channels(canonical.hyper)
    if network.channels != stated:
        raise InputError(
            f"hyper: charge_channels: expected {network.channels}, the number of latent charges "
            f"that the network has for each atom, got {stated}"
        )
    return network
