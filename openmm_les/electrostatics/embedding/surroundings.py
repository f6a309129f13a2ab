"""What is around an ML region, and how it is joined with the electrostatics of the model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from openmm_les.electrostatics.embedding.build import EWALD_METHODS, build_coupling
from openmm_les.electrostatics.embedding.charges import ChargeCorrection
from openmm_les.electrostatics.embedding.embedded import EmbeddedElectrostatics
from openmm_les.electrostatics.embedding.moments import EmbeddedMoments, build_moment_coupling
from openmm_les.electrostatics.embedding.pairs import ScaledPair
from openmm_les.electrostatics.embedding.sites import Sites
from openmm_les.electrostatics.multipoles import LatentMultipoles
from openmm_les.electrostatics.protocol import ElectrostaticKernel


@dataclass(frozen=True)
class Surroundings:
    """The MM charges around an ML region, and how they act on it.

    The model has the ML atoms first, then link atoms.

    Attributes:
        charges: MM charges [e], in the order of their positions.
        method: OpenMM's nonbonded method, one of `openmm_les.electrostatics.embedding.METHODS`.
        total: charge of the region [e].
        sign: by which latent charges are to be multiplied, from `charge_factor`.
        cutoff, dielectric: of the reaction field [A].
        hosts: for each link atom, the index of its ML atom.
        images: ``'exact'``: the model sees the region alone, and the coupling the region's periodic
            images; ``'native'``: the model's own periodic sum has them.
        tolerance: RMS force error over RMS force of Ewald methods, in single precision.
        polarization: ``'mm'``: a model with kappa or alpha responds to the charges; ``'none'``.
        conserves: whether the charge that they induce adds up to nothing.
        mm_widths: of the charges as the response sees them [A], one for each, or none.
    """

    charges: Sequence[float]
    method: str
    total: float
    sign: float
    cutoff: float | None = None
    dielectric: float = 78.3
    scaled_pairs: Sequence[ScaledPair] = ()
    hosts: Sequence[int] = ()
    images: str = "exact"
    tolerance: float = 1e-5
    polarization: str = "none"
    conserves: bool = True
    mm_widths: Sequence[float] = ()

    def embed(
        self,
        own: ElectrostaticKernel,
        order: torch.Tensor,
        cell: torch.Tensor | None,
        *,
        width: float,
        dtype: torch.dtype,
        margin: float,
        device: str | torch.device,
    ) -> EmbeddedElectrostatics | EmbeddedMoments:
        """The electrostatics of the model and its coupling to the charges.

        Args:
            own: kernel of the model.
            order: index of each atom of the model, in the order in which the kernel gets them.
            cell: lattice vectors in rows [A], shape [3, 3], if periodic.
            width: sigma of the latent charges [A].
            margin: factor by which an edge of the box may grow.
        """
        sums: dict[str, Any] = {
            "cell": cell,
            "cutoff": self.cutoff,
            "dielectric": self.dielectric,
            "width": width,
            "tolerance": self.tolerance if dtype == torch.float32 else min(self.tolerance, 1e-9),
            "images": self.images == "exact" and self.method in EWALD_METHODS,
            "scaled_pairs": self.scaled_pairs,
            "margin": margin,
            "dtype": dtype,
            "device": device,
        }
        correction = ChargeCorrection(self.total, sign=self.sign)
        sites = Sites(order, self.hosts)
        charges = torch.tensor(self.charges, dtype=torch.float64)
        if isinstance(own, LatentMultipoles):
            coupled = build_moment_coupling(
                self.method, degree=own.degree, mm_widths=self.mm_widths, **sums
            )
            polarizes = self.polarization == "mm"
            return EmbeddedMoments(
                own,
                coupled,
                correction,
                sites,
                charges,
                polarizes=polarizes,
                conserves=self.conserves,
            )
        coupling = build_coupling(self.method, **sums)
        return EmbeddedElectrostatics(own, coupling, correction, sites, charges)
