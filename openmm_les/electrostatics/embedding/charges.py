"""From the latent charges of a model to those that act on MM charges."""

import math

import torch
from torch import nn

from openmm_les.units import COULOMB_CONSTANT

#: Relative difference up to which a prefactor is taken for the physical one.
_SAME_PREFACTOR = 0.02


def charge_factor(sign: float, prefactor: float) -> float:
    """The factor that converts latent charges of a model to charges in e, with their sign +1 or -1.

    They are in e if the model was trained with the physical prefactor 1 / (2 epsilon_0) [eV A], for
    which codes use slightly different values. With another one (MatGL has 1, in its own units of
    energy), the prefactor defines the unit of charge.
    """
    ratio = prefactor / (2.0 * math.pi * COULOMB_CONSTANT)
    return sign if abs(ratio - 1.0) < _SAME_PREFACTOR else sign * math.sqrt(ratio)


class ChargeCorrection(nn.Module):
    """The charges of the coupling, ``q'_i = s q_i - (sum_j s q_j - Q) / N``.

    A LES energy is quadratic in the latent charges, so that training does not determine their sign
    s, and their sum is not conserved. The difference to the charge Q of the region [e] is spread
    evenly over its atoms: in a periodic box a spurious net charge of 0.1 e costs several kJ/mol.
    ``sign`` is s times the unit of the latent charges in e, from `charge_factor`.
    """

    def __init__(self, total: float, *, sign: float = 1.0) -> None:
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
