"""What the modules of an electric response share, scripted before use."""

from typing import Any, Tuple

from torch import Tensor

from openmm_les.electrostatics.protocol import ElectrostaticTerms
from openmm_les.evaluation.assembly import SystemNetwork
from openmm_les.evaluation.response.polarization import PhysicalCharges


class RespondingSystem(SystemNetwork):
    """A system with physical charges; the electrostatics `with_moments` are `LatentMultipoles`."""

    # Not by annotations, of which TorchScript inherits none.
    __constants__ = ("with_moments", "with_dipoles")

    def __init__(self, physical: PhysicalCharges, with_moments: bool, **system: Any) -> None:
        super().__init__(**system)
        self.electrostatics: Any = self.electrostatics  # has more than every kernel has
        self.physical: Any = physical
        self.with_moments = with_moments
        self.with_dipoles = with_moments and self.electrostatics.has_dipoles

    def physical_charges(self, latent: Tensor, terms: ElectrostaticTerms) -> Tensor:
        """Those of atoms, permanent and induced, shape [n] [e]."""
        if self.with_moments:
            induced = terms.induced
            assert induced is not None
            latent = latent[0] + induced[0]
        charges: Tensor = self.physical(latent)
        return charges

    def weighted(
        self,
        latent: Tensor,
        atoms: Tensor,
        cell: Tensor,
        weights: Tensor,
        directions: Tensor,
        induced_directions: Tensor,
    ) -> Tuple[Tensor, Tensor]:
        """Derivatives of the m sums of `MultipoleSum.weighted`.

        By latents, shape [m, n] or [m, rows, n], and by positions at fixed latents, [m, n, 3].
        """
        if self.with_moments:
            found: Tuple[Tensor, Tensor] = self.electrostatics.weighted(
                latent, atoms, cell, weights, directions, induced_directions
            )
            return found
        return weights, weights.new_zeros([weights.shape[0], weights.shape[1], 3])
