"""The module behind `SystemModel.response`, scripted before use."""

from typing import Tuple

import torch
from torch import Tensor

from openmm_les.evaluation.assembly import with_induced
from openmm_les.evaluation.response.polarization import born_charges, polarization_weights
from openmm_les.evaluation.response.system import RespondingSystem


class ResponseModule(RespondingSystem):
    """Latents and Born effective charges of one system, and the energy of its latents."""

    def forward(
        self, positions: Tensor, cell: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Latents, Born effective charges, the energy of the latents [] [eV], and the status [].

        Latents are as in `Results`, and all is valid only if the status is 0. What charges and
        what dipoles of atoms give to the Born effective charges are two results, [n, 3, 3] [e]; the
        second is empty for models without dipoles and polarizabilities.
        """
        atoms = positions.index_select(0, self.order)
        neighbors = self.neighbors(atoms, cell)
        energies, latent, tape = self.network.short_range(
            atoms, neighbors, self.species, self.counts
        )
        terms = self.electrostatics(latent, atoms, cell)
        weights = polarization_weights(atoms, cell, self.periodic)
        none, zero = weights.new_zeros([weights.shape[0], 3]), torch.zeros_like(energies)
        rows, fixed = self.weighted(
            latent, atoms, cell, self.physical.pull_back(weights), none, none
        )
        moved = [
            self.network.pull_back(zero, row, tape, self.counts)[0] for row in torch.unbind(rows)
        ]
        charges = self.physical_charges(latent, terms)
        born = born_charges(charges, torch.stack(moved) + fixed, weights, cell, self.periodic)
        by_dipoles = born[:0]
        if self.with_dipoles:
            axes = self.physical.factor * torch.eye(3, dtype=zero.dtype, device=zero.device)
            rows, fixed = self.weighted(
                latent, atoms, cell, torch.zeros_like(weights[:3]), axes, axes
            )
            moved = [
                self.network.pull_back(zero, row, tape, self.counts)[0]
                for row in torch.unbind(rows)
            ]
            by_dipoles = (torch.stack(moved) + fixed).transpose(0, 1)
            by_dipoles = by_dipoles.index_select(0, self.conclusion.original)
        energy = terms.energy
        broken = ~(
            torch.isfinite(born).all() & torch.isfinite(by_dipoles).all() & torch.isfinite(energy)
        )
        crowded = self.network.outgrown(tape)
        status = self.conclusion.status(atoms, cell, neighbors, crowded, terms.outgrown, broken)
        latent = with_induced(latent, terms).index_select(-1, self.conclusion.original)
        return latent, born.index_select(0, self.conclusion.original), by_dipoles, energy, status
