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
    fused: bool = False,
    loops: bool = False,
    conditions: Sequence[Sequence[float]] | None = None,
) -> Network[Any]:
    """The short-range network of a model's family.

    Args:
        species: indices of the elements to keep, in the order in which atoms will be sorted.
        exact_radial: evaluate radial networks instead of tables (for double precision).
        fold: spend memory on products of weights to save time at each call.
        few_kernels: do more arithmetic in fewer kernels, for systems so small that launches cost
            more; needs `fold`.
        fused: compute in kernels of `openmm_les.networks.fused` what there are some for in the
            family and dtype. They are Python operators, which no saved script can hold.
        loops: compute in loops of `openmm_les.networks.loops`, for a CPU, what there are some for
            in the family. They are Python operators, too.
        conditions: values of the model's conditions for each of `species`, which may then name an
            element several times; None: those of `neutral_conditions`.
    """
    if fused:
        from openmm_les.networks.fused import require_triton

        require_triton()
    more: dict[str, Any] = {}
    if known := conditions_of(canonical.hyper):
        import torch

        neutral = [[condition.neutral for condition in known]] * len(species)
        more["conditions"] = torch.tensor(conditions or neutral, dtype=torch.float64)
    network: Network[Any] = families()[canonical.family].load("network")(
        canonical.hyper,
        canonical.state,
        species,
        dtype=dtype,
        exact_radial=exact_radial,
        fold=fold,
        few_kernels=few_kernels,
        fused=fused,
        loops=loops,
        **more,
    )
    stated = latent_rows(canonical.hyper)
    if network.rows != stated:
        raise InputError(
            f"hyper: expected charge_channels or moments of {network.rows} latent numbers for each "
            f"atom, which the network has, got {stated}"
        )
    return network
