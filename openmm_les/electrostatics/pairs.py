"""The LES energy of a system that is not periodic: a sum over all pairs."""

import math

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import check_chunk_size, self_energy_coefficient
from openmm_les.electrostatics.protocol import ElectrostaticTerms
from openmm_les.electrostatics.screening import erf_over_x
from openmm_les.errors import InputError

#: Pairs processed at a time when no chunk size is given.
_PAIRS_PER_CHUNK = 2**20


class PairSum(nn.Module):
    r"""Coulomb interaction of Gaussian charges, without cutoff.

    .. math::
        E = \frac{c}{2\pi} \sum_{i<j} q_i q_j \frac{\mathrm{erf}(r_{ij} / \sigma\sqrt2)}{r_{ij}}
            + \Big[\frac{c}{\sigma (2\pi)^{3/2}} \sum_i q_i^2\Big]

    with the bracket only where the model keeps the self-interaction (King et al., Nat. Commun. 16,
    8763 (2025)). It is what `DirectEwald` tends to in a large box with a fine ``dl``, and has the
    same interface.

    The code sums over all i and j: the limit of erf(a r)/r at r = 0, which is finite, gives the
    diagonal, and that is the self-interaction. Coincident atoms are therefore well defined too:
    they interact like an atom with itself and exert no force on each other.
    """

    def __init__(
        self,
        *,
        sigma: float,
        prefactor: float,
        remove_self_interaction: bool,
        dtype: torch.dtype,
        chunk_size: int | None = None,
    ) -> None:
        """Set up the constants; see `ReciprocalKernel` and `StructureFactors`.

        Interactions have the dtype; distances come from float64 differences.
        """
        super().__init__()
        if not sigma > 0.0:
            raise InputError(f"sigma: expected a length > 0 A, got {sigma}")
        check_chunk_size(chunk_size)
        self.alpha = 1.0 / (math.sqrt(2.0) * sigma)
        self.coulomb = prefactor / (2.0 * math.pi)
        self.self_energy = (
            self_energy_coefficient(prefactor, sigma) if remove_self_interaction else 0.0
        )
        self.dtype = dtype
        self.chunk_size = chunk_size or 0
        self.pairs_per_chunk = _PAIRS_PER_CHUNK

    def forward(self, charges: Tensor, positions: Tensor, cell: Tensor) -> ElectrostaticTerms:
        """See `ElectrostaticKernel`."""
        with torch.no_grad():
            charges = charges.to(self.dtype)
            positions = positions.to(torch.float64)
            n = charges.shape[-1]
            rows = charges.view(-1, n)
            single = rows.shape[0] == 1  # whose own charge is a factor of the whole sum
            chunk = self.chunk_size if self.chunk_size > 0 else max(1, self.pairs_per_chunk // n)
            # Written in place, as in `DirectEwald`.
            potential, gradient = torch.empty_like(rows), charges.new_empty([n, 3])
            for start in range(0, n, chunk):
                separations = positions[start : start + chunk, None, :] - positions
                separations = separations.to(self.dtype)
                x2 = (separations * separations).sum(dim=2) * (self.alpha * self.alpha)
                value, slope = erf_over_x(x2)
                potential[:, start : start + chunk] = rows @ value.t()
                slope = slope * (rows if single else rows[:, start : start + chunk].t() @ rows)
                gradient[start : start + chunk] = torch.bmm(slope[:, None, :], separations)[:, 0]
            potential = potential.view_as(charges) * (self.coulomb * self.alpha)
            gradient = gradient * (self.coulomb * self.alpha**3)
            if single:
                gradient = gradient * rows.t()

            potential = potential - 2.0 * self.self_energy * charges
            energy = 0.5 * (charges.to(torch.float64) * potential.to(torch.float64)).sum()
            # The forces sum to zero, so that any origin will do; the centre rounds least.
            strain = (positions - positions.mean(dim=0)).t() @ gradient.to(torch.float64)
            outgrown = torch.zeros([], dtype=torch.bool, device=positions.device)
            return ElectrostaticTerms(energy, potential, gradient, strain, outgrown)
