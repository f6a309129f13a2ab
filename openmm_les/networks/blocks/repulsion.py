"""Ziegler-Biersack-Littmark repulsion of nuclei at short distance."""

from typing import Any, Mapping, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.radial import polynomial_envelope


class ZBLRepulsion(nn.Module):
    """Screened Coulomb repulsion that ends where the covalent radii [Z] [A] touch.

    E_i = sum_j energy Z_i Z_j / r phi(r / a) f(r), a = length / (Z_i^power + Z_j^power), with the
    polynomial envelope f from 0 to the sum of the radii. Ziegler, Biersack, Littmark, The Stopping
    and Range of Ions in Solids (1985); the envelope is MACE's. Pairs beyond the cutoff [A] do not
    exist.

    It stays float64: nuclear charges make the energies large where the envelope is a difference of
    almost equal numbers.
    """

    def __init__(
        self, zbl: Mapping[str, Any], radii: Tensor, numbers: Sequence[int], cutoff: float
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.order = int(zbl["cutoff_order"])
        z = torch.tensor(list(numbers), dtype=torch.float64)
        power = z ** float(zbl["power"])
        pairs = {
            "energies": float(zbl["energy"]) * z.unsqueeze(1) * z,
            "lengths": float(zbl["length"]) / (power.unsqueeze(1) + power),
            "radii": radii.unsqueeze(1) + radii,
        }
        stacked = torch.stack([table.flatten() for table in pairs.values()], 1)
        self.parameters_of_pairs = nn.Buffer(stacked)
        self.coefficients = nn.Buffer(torch.tensor(zbl["coefficients"], dtype=torch.float64))
        self.exponents = nn.Buffer(torch.tensor(zbl["exponents"], dtype=torch.float64))

    def forward(self, distances: Tensor, pairs: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Energies [eV] of one atom of each pair and their derivatives, each of shape [E, 1]."""
        assert pairs is not None
        r = distances.unsqueeze(1).to(self.coefficients.dtype)
        energy, length, radius = self.parameters_of_pairs.index_select(0, pairs).chunk(3, 1)
        terms = self.coefficients * torch.exp(-self.exponents * r / length)
        screening = terms.sum(1, keepdim=True)
        screening_slope = -(terms * self.exponents).sum(1, keepdim=True) / length
        envelope, envelope_slope = polynomial_envelope(r / radius, self.order)
        coulomb = energy / r * (r < self.cutoff).to(r.dtype)
        slope = screening_slope * envelope + screening * (envelope_slope / radius - envelope / r)
        value = coulomb * screening * envelope
        return value.to(distances.dtype), (coulomb * slope).to(distances.dtype)


class WithRepulsion(nn.Module):
    """Radial features with the repulsion as one more, the last."""

    def __init__(self, radial: nn.Module, repulsion: ZBLRepulsion) -> None:
        super().__init__()
        self.radial = radial
        self.repulsion = repulsion

    def forward(self, distances: Tensor, pairs: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """See `ExactRadial.forward`."""
        values, slopes = self.radial(distances, pairs)
        energies, forces = self.repulsion(distances, pairs)
        return torch.cat([values, energies], 1), torch.cat([slopes, forces], 1)
