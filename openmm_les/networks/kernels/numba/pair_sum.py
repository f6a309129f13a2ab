"""The LES energy of a small system that is not periodic, for a CPU: `PairSum` as one loop."""

import math
from typing import Any, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from openmm_les.electrostatics.pairs import PairSum
from openmm_les.electrostatics.protocol import ElectrostaticTerms
from openmm_les.networks.kernels.numba.compiler import compiled
from openmm_les.networks.kernels.numba.operators import operator

#: Largest systems for which one loop is faster than operations on all pairs at once (estimate).
_MOST_ATOMS = 256
_AT_ZERO = 2.0 / math.sqrt(math.pi)  #: erf(x) / x for x = 0


@compiled
def _sum_pairs(q: Any, positions: Any, alpha: float, potential: Any, gradient: Any) -> None:
    """Adds to dE/dq [channels, N] and dE/dr [N, 3], float64 as all others, without c / (2 pi).

    Charges are [channels, N]; for the functions see `openmm_les.electrostatics.screening`.
    """
    channels, n = q.shape
    for i in range(n):
        for c in range(channels):
            potential[c, i] += _AT_ZERO * alpha * q[c, i]
        for j in range(i):
            x = positions[i, 0] - positions[j, 0]
            y = positions[i, 1] - positions[j, 1]
            z = positions[i, 2] - positions[j, 2]
            x2 = (x * x + y * y + z * z) * alpha * alpha
            if x2 < 1e-2:
                # Taylor series, of which the first terms left out are below 2e-16 here.
                value = -1.0 / 1320.0 * x2 + 1.0 / 216.0
                value = _AT_ZERO * ((((value * x2 - 1.0 / 42.0) * x2 + 0.1) * x2 - 1 / 3) * x2 + 1)
                slope = 1.0 / 780.0 * x2 - 1.0 / 132.0
                slope = ((((slope * x2 + 1.0 / 27.0) * x2 - 1.0 / 7.0) * x2) + 0.4) * x2 - 2 / 3
                slope *= _AT_ZERO
            else:
                root = np.sqrt(x2)
                value = math.erf(root) / root
                slope = (_AT_ZERO * math.exp(-x2) - value) / x2
            product = 0.0
            for c in range(channels):
                potential[c, i] += alpha * value * q[c, j]
                potential[c, j] += alpha * value * q[c, i]
                product += q[c, i] * q[c, j]
            factor = alpha * alpha * alpha * slope * product
            gradient[i, 0] += factor * x
            gradient[i, 1] += factor * y
            gradient[i, 2] += factor * z
            gradient[j, 0] -= factor * x
            gradient[j, 1] -= factor * y
            gradient[j, 2] -= factor * z


@operator(
    "pair_sum(Tensor charges, Tensor positions, float alpha, float coulomb, float self_energy) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)
def _pair_sum(
    charges: Tensor, positions: Tensor, alpha: float, coulomb: float, self_energy: float
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Energy, dE/dq, dE/dr and dE/dstrain, all float64."""
    q, r = charges.to(torch.float64).numpy(), positions.to(torch.float64).numpy()
    rows = np.ascontiguousarray(q.reshape(-1, q.shape[-1]))
    potential, gradient = np.zeros_like(rows), np.zeros_like(r)
    _sum_pairs(rows, np.ascontiguousarray(r), alpha, potential, gradient)
    potential = coulomb * potential - 2.0 * self_energy * rows
    gradient *= coulomb
    # The forces sum to zero, so that any origin will do; the centre rounds least.
    strain = (r - r.mean(0)).T @ gradient
    energy = np.asarray(0.5 * (rows * potential).sum())
    results = energy, potential.reshape(q.shape), gradient, strain
    return tuple(map(torch.from_numpy, results))  # type: ignore[return-value]


class LoopPairSum(nn.Module):
    """The sum of a `PairSum`, in float64 within; results have the dtype of that sum."""

    def __init__(self, plain: PairSum) -> None:
        super().__init__()
        self.alpha, self.coulomb = plain.alpha, plain.coulomb
        self.self_energy = plain.self_energy
        self.dtype = plain.dtype

    def forward(self, charges: Tensor, positions: Tensor, cell: Tensor) -> ElectrostaticTerms:
        """See `ElectrostaticKernel`."""
        energy, potential, gradient, strain = torch.ops.openmm_les_loops.pair_sum(
            charges, positions, self.alpha, self.coulomb, self.self_energy
        )
        outgrown = torch.zeros([], dtype=torch.bool, device=positions.device)
        return ElectrostaticTerms(
            energy, potential.to(self.dtype), gradient.to(self.dtype), strain, outgrown
        )


def loops_for(electrostatics: Any, atoms: int) -> Any:
    """A kernel of charges, as a loop where that is faster."""
    if type(electrostatics) is PairSum and atoms <= _MOST_ATOMS:
        return LoopPairSum(electrostatics)
    return electrostatics
