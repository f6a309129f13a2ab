"""From the latent charges of a model to those that its surroundings see."""

import math

import torch
from torch import nn

from openmm_les.units import COULOMB_CONSTANT

#: Prefactors of LES energies this near to the physical one are values for it.
_SAME_PREFACTOR = 0.02


def charge_factor(sign: float, prefactor: float) -> float:
    """What makes charges in e of the latent charges of a model.

    They are in e where the training had the physical prefactor 1 / (2 epsilon_0), whose values
    differ a little. Where it had another one (MatGL has 1, and energies in units of its own), the
    charges are in the unit that this prefactor makes.

    Args:
        sign: of the latent charges, +1 or -1.
        prefactor: of the model [eV A].
    """
    ratio = prefactor / (2.0 * math.pi * COULOMB_CONSTANT)
    return sign if abs(ratio - 1.0) < _SAME_PREFACTOR else sign * math.sqrt(ratio)


class ChargeCorrection(nn.Module):
    r"""The charges of the coupling, ``q'_i = s q_i - (sum_j s q_j - Q) / N``.

    A LES energy is quadratic in the latent charges, so that training leaves their sign s open, and
    their sum is not conserved. What little a region lacks or has too much is spread evenly: in a
    periodic box a net charge of 0.1 e that is not there costs several kJ/mol.
    """

    def __init__(self, total: float, *, sign: float = 1.0) -> None:
        """Set up the constants.

        Args:
            total: charge Q of the region [e].
            sign: s, +1 or -1, times the unit of the latent charges in e.
        """
        super().__init__()
        self.total = float(total)
        self.sign = float(sign)

    def forward(self, charges: torch.Tensor) -> torch.Tensor:
        """The charges q' [e], float64, shape [n], from latent charges of shape [n]."""
        charges = self.sign * charges.to(torch.float64)
        return charges - (charges.sum() - self.total) / charges.shape[0]

    @torch.jit.export
    def pull_back(self, potential: torch.Tensor) -> torch.Tensor:
        """dE/dq from dE/dq' [eV/e], float64, shape [n]."""
        return self.sign * (potential - potential.mean())
