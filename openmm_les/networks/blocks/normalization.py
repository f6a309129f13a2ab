"""What some blocks of MACE do to neighbour sums before the product basis."""

from typing import List, NamedTuple, Sequence, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.angular import parity_ordered_degrees


class DensityTape(NamedTuple):
    """Quotients [S, C, N], the factors 1 / (1 + rho) [N], and d of every slot [N, K, 1]."""

    quotients: torch.Tensor
    factors: torch.Tensor
    density: torch.Tensor


class DensityNormalization(nn.Module):
    """Divides neighbour sums by 1 + rho_i, rho_i = sum_j d(r_ij) with a learned function d."""

    def forward(
        self, sums: torch.Tensor, density: torch.Tensor
    ) -> Tuple[torch.Tensor, DensityTape]:
        """The quotients of A [S, C, N], with d of every slot [N, K, 1]."""
        factors = 1.0 / (1.0 + density.sum([1, 2]))
        out = sums * factors
        return out, DensityTape(out, factors, density)

    @torch.jit.export
    def backward(self, grad: torch.Tensor, tape: DensityTape) -> Tuple[torch.Tensor, torch.Tensor]:
        """From dE/d(quotients) to dE/dA and dE/dd."""
        grad_rho = -tape.factors * (grad * tape.quotients).sum([0, 1])
        return grad * tape.factors, grad_rho.view(-1, 1, 1).expand_as(tape.density)


class SpeciesMixing(nn.Module):
    """Maps channels of neighbour sums by the species of the atom, by [Z, C, C] for each degree."""

    def __init__(self, maps: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.degrees: List[int] = parity_ordered_degrees(len(maps) - 1)
        self.maps = nn.Buffer(torch.stack(list(maps), 1).transpose(2, 3).contiguous())

    def forward(self, sums: torch.Tensor, counts: List[int], transpose: bool) -> torch.Tensor:
        """A [S, C, N] of atoms sorted by species to [S, C, N], or with the transposed maps."""
        species: List[torch.Tensor] = []
        atom = 0
        for z, count in enumerate(counts):
            if count > 0:
                parts: List[torch.Tensor] = []
                first = 0
                for degree in self.degrees:
                    rows = sums[first : first + 2 * degree + 1, :, atom : atom + count]
                    own = self.maps[z, degree].t() if transpose else self.maps[z, degree]
                    parts.append(torch.matmul(own, rows))
                    first += 2 * degree + 1
                species.append(torch.cat(parts))
                atom += count
        return species[0] if len(species) == 1 else torch.cat(species, 2)
