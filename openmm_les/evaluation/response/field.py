"""A model in a uniform electric field, scripted before use."""

from typing import Any, Tuple

import torch
from torch import Tensor

from openmm_les.electrostatics.protocol import ElectrostaticTerms
from openmm_les.evaluation.assembly import with_induced
from openmm_les.evaluation.conclusion import Computed, Results
from openmm_les.evaluation.response.polarization import born_charges, polarization_weights
from openmm_les.evaluation.response.system import RespondingSystem


class ModelInField(RespondingSystem):
    r"""Energy and forces of one system in a uniform electric field.

    The field pulls on Born effective charges, :math:`F_{ib} = \sum_a E_a Z_{i,ab}`. In an open
    system that is the gradient of :math:`-E \cdot \mu - E \cdot A E / 2`, with the dipole and the
    polarizability without a field, which is part of the energy. In a periodic one this energy has
    no lower bound, and depends on how atoms are put into the box: there are the forces alone,
    without a term in energy and strain derivative.

    The `convention` ``"original"`` is that of the code which models with moments were trained with,
    see docs/explanation/response.md: its polarizabilities feel the field without the factor of
    `PhysicalCharges.screening`, and the energy has half of what induced dipoles have in it.
    """

    def __init__(self, convention: str, **system: Any) -> None:
        super().__init__(**system)
        self.is_consistent = convention == "consistent"
        #: The part of the field that polarizabilities feel, and how often the energies -F.alpha.E
        #: and -E.alpha.E are in what forces are the gradient of, F the field of the moments.
        self.felt = 1.0 if self.is_consistent else 1.0 / self.physical.screening
        self.cross = 1.0 if self.is_consistent else 1.0 + 0.5 * self.felt
        self.square = 0.5 if self.is_consistent else self.felt

    def forward(
        self, positions: Tensor, cell: Tensor, field: Tensor
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As that of `SpecializedModel`, in a field, shape [3] [V/A], float64."""
        energy, forces, charges, strain, _, status = self.evaluate(positions, cell, field)
        return energy, forces, charges, strain, status

    @torch.jit.export
    def evaluate(self, positions: Tensor, cell: Tensor, field: Tensor) -> Results:
        """The same with the part of the energy that the charges have, in the field too."""
        atoms = positions.index_select(0, self.order)
        neighbors = self.neighbors(atoms, cell)
        energies, latent, tape = self.network.short_range(
            atoms, neighbors, self.species, self.counts
        )
        terms: ElectrostaticTerms = self.electrostatics(latent, atoms, cell)
        charges = self.physical_charges(latent, terms)
        in_field, by_latents, gradient = self.coupling(latent, charges, atoms, cell, terms, field)
        potential, strain = terms.potential, terms.strain
        if not self.periodic:
            potential = potential + by_latents
            strain = strain + gradient.t() @ atoms
        pulled, pulled_strain = self.network.pull_back(
            torch.ones_like(energies), potential, tape, self.counts
        )
        forces = -(pulled + terms.gradient + gradient)
        if self.periodic:
            zero, weights = torch.zeros_like(energies), polarization_weights(atoms, cell, True)
            none = weights.new_zeros([6, 3])
            rows, fixed = self.weighted(
                latent, atoms, cell, self.physical.pull_back(weights), none, none
            )
            if self.with_moments:
                forces = forces - self.network.pull_back(zero, by_latents, tape, self.counts)[0]
            moved = [
                self.network.pull_back(zero, row, tape, self.counts)[0]
                for row in torch.unbind(rows)
            ]
            born = born_charges(charges, torch.stack(moved) + fixed, weights, cell, True)
            forces = forces + (field.view(1, 3, 1) * born).sum(1)
        long_range = terms.energy + in_field
        energy = energies.sum() + long_range
        latent = self.polarized(latent, terms, field)
        results: Results = self.conclusion(
            Computed(energy, forces, latent, pulled_strain + strain, long_range),
            atoms,
            cell,
            neighbors,
            self.network.outgrown(tape),
            terms.outgrown,
        )
        return results

    def coupling(
        self,
        latent: Tensor,
        charges: Tensor,
        atoms: Tensor,
        cell: Tensor,
        terms: ElectrostaticTerms,
        field: Tensor,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """What the moments do in a field, except for the charges of a periodic system.

        The energy [] [eV] as far as the convention returns it, and the derivatives of what the
        forces are the gradient of: by latents, and by positions at fixed latents [n, 3].
        """
        along = torch.zeros_like(charges) if self.periodic else atoms @ field
        latent_field = self.physical.factor * field
        rows, fixed = self.weighted(
            latent,
            atoms,
            cell,
            self.physical.pull_back(along.unsqueeze(0)),
            latent_field.unsqueeze(0),
            self.cross * latent_field.unsqueeze(0),
        )
        by_latents, gradient = -rows[0], -fixed[0].to(torch.float64)
        energy = torch.zeros_like(terms.energy)
        if not self.periodic:
            gradient = gradient - charges.unsqueeze(1) * field
            if self.is_consistent:
                energy = energy - (charges * along).sum()
        if self.with_moments:
            induced = terms.induced
            assert induced is not None
            by_field, squares = self.electrostatics.polarized(latent, latent_field)
            by_latents = by_latents - self.square * squares
            dipoles = induced[1:].t().to(torch.float64)
            if self.is_consistent:
                dipoles = self.electrostatics.dipoles(latent) + dipoles + 0.5 * by_field
            else:
                dipoles = 0.5 * self.felt * dipoles
            if not (self.is_consistent and self.periodic):
                energy = energy - (dipoles.sum(0) * latent_field).sum()
        return energy, by_latents, gradient

    def polarized(self, latent: Tensor, terms: ElectrostaticTerms, field: Tensor) -> Tensor:
        """Latents and what fields induce, as `Results.charges`."""
        latents = with_induced(latent, terms)
        if self.with_moments:
            felt = self.felt * self.physical.factor * field
            latents[-3:] += self.electrostatics.polarized(latent, felt)[0].t()
        return latents
