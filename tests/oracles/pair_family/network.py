"""Energy and charge of an atom: sums over neighbours of (1 - r / cutoff)^3."""

from typing import Any, List, Mapping, NamedTuple, Sequence, Tuple

import torch

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.geometry import pair_vectors, pull_back_vectors, species_pairs
from openmm_les.networks.form import Form
from openmm_les.networks.protocol import NetworkModule


class PairTape(NamedTuple):
    """What `PairNetwork.pull_back` needs."""

    vectors: torch.Tensor
    distances: torch.Tensor
    pairs: torch.Tensor
    reverse: torch.Tensor


class PairNetwork(NetworkModule):
    """See `openmm_les.networks.protocol.Network`."""

    def __init__(
        self,
        hyper: Mapping[str, Any],
        state: Mapping[str, torch.Tensor],
        species: Sequence[int],
        form: Form,
    ) -> None:
        super().__init__()
        self.cutoff: float = hyper["cutoff"]
        self.num_species = len(species)
        index = torch.tensor(list(species))
        self.energies: torch.Tensor
        self.charges: torch.Tensor
        for name in ("energies", "charges"):
            self.register_buffer(name, state[name][index][:, index].flatten().to(form.dtype))

    @torch.jit.export
    def short_range(
        self,
        positions: torch.Tensor,
        neighbors: Neighbors,
        species: torch.Tensor,
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor, PairTape]:
        """Energies and charges of atoms."""
        indices = neighbors.indices
        vectors = pair_vectors(positions, neighbors, self.energies.dtype)
        distances = torch.linalg.norm(vectors, dim=1)
        pairs = species_pairs(species, indices, self.num_species)
        values = (1.0 - distances / self.cutoff).clamp(min=0.0) ** 3
        tape = PairTape(vectors, distances, pairs, neighbors.reverse)
        energies = (0.5 * self.energies[pairs] * values).view(indices.shape).sum(1)
        charges = (self.charges[pairs] * values).view(indices.shape).sum(1)
        return energies.to(torch.float64), charges.to(torch.float64), tape

    @torch.jit.export
    def pull_back(
        self,
        grad_energies: torch.Tensor,
        grad_charges: torch.Tensor,
        tape: PairTape,
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """dE/dr and dE/dstrain."""
        n = grad_energies.shape[0]
        slots = tape.distances.shape[0] // n
        energies, charges = (
            0.5 * self.energies[tape.pairs] * grad_energies.repeat_interleave(slots),
            self.charges[tape.pairs] * grad_charges.repeat_interleave(slots),
        )
        slopes = -3.0 / self.cutoff * (1.0 - tape.distances / self.cutoff).clamp(min=0.0) ** 2
        grad = ((energies + charges) * slopes / tape.distances).to(tape.vectors.dtype)
        return pull_back_vectors(grad.unsqueeze(1) * tape.vectors, tape.vectors, tape.reverse, n)
