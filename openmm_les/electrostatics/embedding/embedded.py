"""Electrostatics of an ML region among MM charges: the model's own energy plus the coupling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from openmm_les.electrostatics.embedding.build import EWALD_METHODS, build_coupling
from openmm_les.electrostatics.embedding.charges import ChargeCorrection
from openmm_les.electrostatics.embedding.pairs import ScaledPair
from openmm_les.electrostatics.protocol import ElectrostaticKernel, ElectrostaticTerms


class EmbeddedElectrostatics(nn.Module):
    """Energy of latent charges by themselves and among MM charges.

    It is called like the kernels of `openmm_les.electrostatics`, but with the positions of more
    atoms: first those of the model, then those of the MM charges. Its gradient has as many rows.

    Link atoms do not interact with MM charges: their latent charges are added to those of the ML
    atoms that they are bonded to, before all are corrected (`ChargeCorrection`) and coupled.
    """

    mm_charges: torch.Tensor
    sites: torch.Tensor
    caps: torch.Tensor
    hosts: torch.Tensor

    def __init__(
        self,
        own: ElectrostaticKernel,
        coupling: nn.Module,
        surroundings: "Surroundings",
        order: torch.Tensor,
    ) -> None:
        """Join the kernel of the model, which gets its atoms in an order, and the coupling."""
        super().__init__()
        self.own: ElectrostaticKernel = own
        self.coupling: Any = coupling
        self.correction: Any = ChargeCorrection(surroundings.total, sign=surroundings.sign)
        charges = torch.tensor(surroundings.charges, dtype=torch.float64)
        self.register_buffer("mm_charges", charges)
        # Where the kernel gets ML atoms, and link atoms, whose hosts are places in `sites`.
        places, num_sites = torch.argsort(order), len(order) - len(surroundings.hosts)
        self.register_buffer("sites", places[:num_sites])
        self.register_buffer("caps", places[num_sites:])
        self.register_buffer("hosts", torch.tensor(surroundings.hosts, dtype=torch.int64))

    def forward(
        self, charges: torch.Tensor, positions: torch.Tensor, cell: torch.Tensor
    ) -> ElectrostaticTerms:
        """Energy and its first derivatives, outside the autograd graph.

        Args:
            charges: latent charges, shape [n].
            positions: of the n atoms of the model, in one piece, and of the m MM charges [A],
                float64, shape [n + m, 3].
            cell: lattice vectors in rows [A], float64, shape [3, 3]; ignored if not periodic.
        """
        n = charges.shape[0]
        with torch.no_grad():
            alone = self.own(charges, positions[:n], cell)

            latent = charges.to(torch.float64)
            folded = latent.index_select(0, self.sites)
            folded = folded.index_add(0, self.hosts, latent.index_select(0, self.caps))
            coupled = self.coupling(
                self.correction(folded),
                positions.index_select(0, self.sites),
                self.mm_charges,
                positions[n:],
                cell,
            )
            pulled = self.correction.pull_back(coupled.potential)
            response = torch.zeros_like(latent).index_add(0, self.sites, pulled)
            response = response.index_add(0, self.caps, pulled.index_select(0, self.hosts))
            on_atoms = torch.zeros_like(positions[:n])
            on_atoms = on_atoms.index_add(0, self.sites, coupled.gradient)
            gradient = alone.gradient.to(torch.float64) + on_atoms
            return ElectrostaticTerms(
                alone.energy + coupled.energy,
                alone.potential.to(torch.float64) + response,
                torch.cat([gradient, coupled.mm_gradient]),
                alone.strain + coupled.strain,
                alone.outgrown | coupled.outgrown,
            )


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
    ) -> EmbeddedElectrostatics:
        """The electrostatics of the model and its coupling to the charges.

        Args:
            own: kernel of the model.
            order: index of each atom of the model, in the order in which the kernel gets them.
            cell: lattice vectors in rows [A], shape [3, 3], if periodic.
            width: sigma of the latent charges [A].
            margin: factor by which an edge of the box may grow.
        """
        coupling = build_coupling(
            self.method,
            cell=cell,
            cutoff=self.cutoff,
            dielectric=self.dielectric,
            width=width,
            tolerance=self.tolerance if dtype == torch.float32 else min(self.tolerance, 1e-9),
            images=self.images == "exact" and self.method in EWALD_METHODS,
            scaled_pairs=self.scaled_pairs,
            margin=margin,
            dtype=dtype,
            device=device,
        )
        return EmbeddedElectrostatics(own, coupling, self, order)
