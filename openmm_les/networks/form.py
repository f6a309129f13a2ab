"""In which form a network is computed: the same numbers within rounding, at other costs."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from openmm_les.errors import InputError
from openmm_les.networks.kernels import Kernels, obstacle


@dataclass(frozen=True)
class Form:
    """What every network of a family is told about its arithmetic; it takes what it has use for.

    Raises:
        InputError: kernels that are not installed, or not for this dtype.
    """

    dtype: torch.dtype  #: but for scalar node features and readouts, which are float64
    _: KW_ONLY
    exact_radial: bool = False  #: evaluate radial networks instead of tables (double precision)
    fold: bool = True  #: spend memory on products of weights to save time at each call
    #: More arithmetic in fewer kernels, for systems so small that launches cost more; needs `fold`.
    few_kernels: bool = False
    kernels: Kernels = "torch"  #: what computes the heavy parts, where a family has such kernels

    def __post_init__(self) -> None:
        if reason := obstacle(self.kernels, single=self.dtype == torch.float32):
            raise InputError(reason)
