"""The long-range LES energy of latent charges: two interchangeable kernels.

`DirectEwald` serves periodic systems, `PairSum` systems that are not periodic. Both are plain
modules without learnt parameters that script, hold to static shapes and never synchronise with the
host. Given charges, positions and cell they return the energy and all its first derivatives.
"""

from collections.abc import Mapping

import torch

from openmm_les.electrostatics.direct import DirectEwald, k_limits_for
from openmm_les.electrostatics.pairs import PairSum
from openmm_les.errors import InputError

__all__ = ["DirectEwald", "PairSum", "build_electrostatics", "k_limits_for"]


def build_electrostatics(
    les: Mapping[str, float],
    periodic: bool,
    cell: torch.Tensor | None,
    dtype: torch.dtype,
    margin: float = 1.0,
    chunk_size: int | None = None,
) -> DirectEwald | PairSum:
    """The kernel for a system.

    Args:
        les: parameters of the model: ``sigma`` [A], ``dl`` [A], ``prefactor`` [eV A / e^2] and
            ``remove_self_interaction``; others are ignored.
        periodic: whether the system is periodic.
        cell: lattice vectors in rows [A], shape [3, 3]; needed only if periodic.
        dtype: precision of the sums over atoms.
        margin: factor by which each lattice vector may grow during a simulation.
        chunk_size: atoms worked on at a time; by default, as memory allows.

    Returns:
        The module, on the CPU.

    Raises:
        InputError: if a parameter is missing or out of range.
    """
    needed = ("sigma", "dl", "prefactor", "remove_self_interaction")
    missing = [name for name in needed if name not in les]
    if missing:
        raise InputError(f"les: expected {', '.join(needed)}; missing {', '.join(missing)}")
    sigma, prefactor = float(les["sigma"]), float(les["prefactor"])
    remove_self_interaction = bool(les["remove_self_interaction"])
    if not periodic:
        return PairSum(
            sigma=sigma,
            prefactor=prefactor,
            remove_self_interaction=remove_self_interaction,
            dtype=dtype,
            chunk_size=chunk_size,
        )
    if cell is None:
        raise InputError("cell: expected three lattice vectors [A] for a periodic system, got None")
    if not margin >= 1.0:
        raise InputError(f"margin: expected a factor of at least 1, got {margin}")
    dl = float(les["dl"])
    return DirectEwald(
        k_limits_for(cell, dl, margin),
        sigma=sigma,
        dl=dl,
        prefactor=prefactor,
        remove_self_interaction=remove_self_interaction,
        dtype=dtype,
        chunk_size=chunk_size,
    )
