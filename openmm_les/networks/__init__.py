"""Short-range networks for inference: plain ``nn.Module`` code, scripted or compiled as it stands.

No module here imports a training framework. Every block has a ``forward`` that returns its output
together with the tensors its hand-written ``backward`` needs. Importing the package imports no
torch: `registry` says which families there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from openmm_les.errors import InputError
from openmm_les.networks.conditions import conditions_of
from openmm_les.networks.moments import latent_rows
from openmm_les.networks.registry import families

if TYPE_CHECKING:
    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les.networks.form import Form
    from openmm_les.networks.protocol import Network

__all__ = ["build_network"]


def build_network(
    canonical: CanonicalModel,
    species: Sequence[int],
    form: Form,
    *,
    conditions: Sequence[Sequence[float]] | None = None,
) -> Network[Any]:
    """The short-range network of a model's family.

    Args:
        species: indices of the elements to keep, in the order in which atoms will be sorted.
        form: in which form it is computed.
        conditions: values of the model's conditions for each of `species`, which may then name an
            element several times; None: those of `neutral_conditions`.
    """
    more: dict[str, Any] = {}
    if known := conditions_of(canonical.hyper):
        import torch

        neutral = [[condition.neutral for condition in known]] * len(species)
        more["conditions"] = torch.tensor(conditions or neutral, dtype=torch.float64)
    network: Network[Any] = families()[canonical.family].load("network")(
        canonical.hyper, canonical.state, species, form, **more
    )
    stated = latent_rows(canonical.hyper)
    if network.rows != stated:
        raise InputError(
            f"hyper: expected charge_channels or moments of {network.rows} latent numbers for each "
            f"atom, which the network has, got {stated}"
        )
    return network
