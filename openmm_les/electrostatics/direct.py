"""The periodic LES energy as an exact sum over reciprocal vectors, for small and medium systems."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import inverse_and_volume, largest_indices
from openmm_les.electrostatics.kernel import ReciprocalKernel, strain_derivative
from openmm_les.electrostatics.protocol import ElectrostaticTerms
from openmm_les.electrostatics.structure_factors import StructureFactors


def k_limits_for(cell: Tensor, k_max: float, margin: float = 1.0) -> list[int]:
    """Largest integers along the axes with which `DirectEwald` serves a cell, shape [3, 3] [A].

    No vector beyond `k_max` [1/A] has a weight; `margin` is the factor by which each lattice vector
    may grow before the bounds are outgrown.
    """
    return [int(n) for n in largest_indices(cell * margin, k_max).tolist()]


class DirectEwald(nn.Module):
    r"""Sum over all reciprocal vectors inside a hard spherical cutoff.

    .. math::
        E = \frac{c}{V} \sum_{0 < |k| \le 2\pi/dl} \frac{e^{-\sigma^2 k^2/2}}{k^2}
            \Big|\sum_i q_i e^{i k \cdot r_i}\Big|^2
            - \Big[\frac{c}{\sigma (2\pi)^{3/2}} \sum_i q_i^2\Big]

    with the bracket only where the model removes the self-interaction (Cheng, npj Comput. Mater.
    11, 80 (2025); King et al., Nat. Commun. 16, 8763 (2025)). Charges are not
    neutralised: a net charge is answered by the background that dropping k = 0 implies.

    The cutoff is part of a trained model, so the set of vectors inside it is taken anew for every
    box, in float64 whatever the dtype. Arrays have static shapes, sized by ``k_limits``; a box that
    needs more is reported, never truncated. As a box changes, the energy jumps where a vector
    crosses the cutoff; the derivatives are those between jumps.
    """

    def __init__(
        self,
        k_limits: Sequence[int],
        kernel: ReciprocalKernel,
        *,
        dtype: torch.dtype,
        chunk_size: int | None = None,
    ) -> None:
        """Set up the sums over integers up to `k_limits`, see `k_limits_for`.

        Larger ones than a box needs cost time and change nothing, as those beyond `n_max` of the
        kernel, which are left out. `dtype` is that of sums over atoms; for `chunk_size` see
        `StructureFactors`.
        """
        super().__init__()
        k_limits = [min(n, kernel.n_max) for n in k_limits]
        self.kernel = kernel
        self.dtype = dtype
        self.structure = StructureFactors(k_limits, dtype=dtype, chunk_size=chunk_size)

    def forward(self, charges: Tensor, positions: Tensor, cell: Tensor) -> ElectrostaticTerms:
        """See `ElectrostaticKernel`."""
        with torch.no_grad():
            charges = charges.to(self.dtype)
            inverse, volume = inverse_and_volume(cell)
            k, weights, slopes = self.kernel(self.structure.grid, inverse, volume)
            fractional = positions.to(torch.float64) @ inverse
            fractional = fractional - torch.round(fractional)

            multiplicity = self.structure.multiplicity
            factors = self.structure.sums(charges, fractional)
            power = factors.to(torch.float64).view(-1, len(k)) ** 2
            power = power.sum(dim=0) * multiplicity
            energy = (weights * power).sum()
            strain = strain_derivative(k, slopes, power, energy)

            response = (2.0 * weights * multiplicity).to(self.dtype) * factors
            potential, gradient = self.structure.pull_back(response, fractional)
            gradient = charges.unsqueeze(-1) * (gradient @ inverse.t().to(self.dtype))
            gradient = gradient.view(-1, charges.shape[-1], 3).sum(dim=0)

            energy = energy - self.kernel.self_energy * (charges.to(torch.float64) ** 2).sum()
            potential = potential - 2.0 * self.kernel.self_energy * charges
            outgrown = self.kernel.exceeds(self.structure.limits, cell)
            energy = torch.where(outgrown, torch.full_like(energy, float("nan")), energy)
            return ElectrostaticTerms(energy, potential, gradient, strain, outgrown)
