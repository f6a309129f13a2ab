"""Short-range networks for inference: plain ``nn.Module`` code, scripted or compiled as it stands.

No module here imports a training framework. Every block has a ``forward`` that returns its output
together with the tensors its hand-written ``backward`` needs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.networks.cace.network import CACENetwork
from openmm_les.networks.chgnet.network import CHGNetNetwork
from openmm_les.networks.mace.network import MACENetwork
from openmm_les.networks.nequip.allegro import AllegroNetwork
from openmm_les.networks.nequip.network import NequIPNetwork
from openmm_les.networks.protocol import Network

__all__ = ["CanonicalModel", "build_network"]

_FAMILIES: Mapping[str, Callable[..., Network[Any]]] = {
    "mace": MACENetwork,
    "cace": CACENetwork,
    "nequip": NequIPNetwork,
    "allegro": AllegroNetwork,
    "chgnet": CHGNetNetwork,
}


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
        canonical: the model.
        species: indices of the elements to keep, in the order in which atoms will be sorted.
        dtype: dtype of the network.
        exact_radial: evaluate radial networks instead of tables (for double precision).
        fold: spend memory on products of weights to save time at each call.
        few_kernels: do more arithmetic in fewer kernels, for systems so small that launches cost
            more; needs `fold`.

    Returns:
        A module, on the CPU.
    """
    return _FAMILIES[canonical.family](
        canonical.hyper,
        canonical.state,
        species,
        dtype=dtype,
        exact_radial=exact_radial,
        fold=fold,
        few_kernels=few_kernels,
    )
