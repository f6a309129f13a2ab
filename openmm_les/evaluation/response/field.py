"""A model in a uniform electric field, scripted before use."""

from typing import Any, Tuple

import torch
from torch import Tensor

from openmm_les.evaluation.assembly import Results, SpecializedModel
from openmm_les.evaluation.response.polarization import (
    PhysicalCharges,
    born_charges,
    polarization_weights,
)


class ModelInField(SpecializedModel):
    r"""Energy and forces of one system in a uniform electric field.

    The field pulls on Born effective charges, :math:`F_{ib} = \sum_a E_a Z_{i,ab}`. In an open
    system that is the gradient of :math:`-E \cdot \mu`, which is part of the energy. In a periodic
    one this energy has no lower bound, and depends on how atoms are put into the box: there are the
    forces alone, without a term in energy and strain derivative.
    """

    def __init__(self, physical: PhysicalCharges, **system: Any) -> None:
        super().__init__(**system)
        self.physical: Any = physical

    def forward(  # type: ignore[override]
        self, positions: Tensor, cell: Tensor, field: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As that of `SpecializedModel`, in a field, shape [3] [V/A], float64."""
        energy, forces, charges, strain, _, status = self.evaluate(positions, cell, field)
        return energy, forces, charges, strain, status

    @torch.jit.export
    def evaluate(  # type: ignore[override]
        self, positions: Tensor, cell: Tensor, field: Tensor
    ) -> Results:
        """The same with the part of the energy that the charges have, in the field too."""
        atoms = positions.index_select(0, self.order)
        neighbors = self.neighbors(atoms, cell)
        energies, latent, tape = self.network.short_range(
            atoms, neighbors, self.species, self.counts
        )
        charges = self.physical(latent)
        terms = self.electrostatics(latent, atoms, cell)
        long_range, potential, gradient, strain = terms[:4]
        if not self.periodic:
            along = atoms @ field
            long_range = long_range - (charges * along).sum()
            potential = potential - self.physical.pull_back(along.unsqueeze(0)).squeeze(0)
            gradient = gradient - charges.unsqueeze(1) * field
            strain = strain - field.unsqueeze(1) * (charges @ atoms)
        pulled, pulled_strain = self.network.pull_back(
            torch.ones_like(energies), potential, tape, self.counts
        )
        forces = -(pulled + gradient)
        if self.periodic:
            weights = polarization_weights(atoms, cell, True)
            rows = [
                self.network.pull_back(torch.zeros_like(row), row, tape, self.counts)[0]
                for row in torch.unbind(self.physical.pull_back(weights))
            ]
            born = born_charges(charges, torch.stack(rows), weights, cell, True)
            forces = forces + (field.view(1, 3, 1) * born).sum(1)
        energy = energies.sum() + long_range
        broken = ~(torch.isfinite(energy) & torch.isfinite(forces).all())
        crowded = self.network.outgrown(tape)
        status = self.status(atoms, cell, neighbors, crowded, terms.outgrown, broken)
        strain = pulled_strain + strain
        return self.ordered(Results(energy, forces, latent, strain, long_range, status))
