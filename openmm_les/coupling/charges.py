"""From the latent charges of a model to those that its surroundings see."""

import torch
from torch import nn


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
            sign: s, +1 or -1.
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
