"""Forces of a network by automatic differentiation, for families without a pull-back by hand."""

from typing import Any, List, Optional, Tuple

import torch
from torch import nn


class DifferentiatedNetwork(nn.Module):
    """Gives a network of pair vectors the contract of `openmm_les.networks.mace.MACENetwork`.

    The pair vectors are the only leaves of the graph: energies and charges depend on positions and
    box through them alone, so that forces and strain derivative follow from their gradient.

    Args:
        network: called with pair vectors [N, K, 3] [A] (r_i - r_j, longer than the cutoff in unused
            slots), the neighbour matrix [N, K], its reverse slots [N * K] and species [N]; returns
            energies [N] [eV] and charges [N] [e], to be differentiated. The vectors come in
            float64.
        cutoff: its cutoff radius [A].
    """

    def __init__(self, network: Any, cutoff: float) -> None:
        super().__init__()
        self.network: Any = network
        self.cutoff = cutoff
        #: Tensors made in torch's inference mode cannot be differentiated.
        self.needs_autograd = True

    @torch.jit.export
    def short_range(
        self,
        positions: torch.Tensor,
        neighbors: torch.Tensor,
        shifts: torch.Tensor,
        reverse: torch.Tensor,
        species: torch.Tensor,
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor, List[List[torch.Tensor]]]:
        """See `openmm_les.networks.mace.MACENetwork.short_range`."""
        n, k = neighbors.shape[0], neighbors.shape[1]
        others = positions.index_select(0, neighbors.view(-1)).view(n, k, 3)
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        vectors = (positions.unsqueeze(1) - others + shifts).detach().requires_grad_(True)
        energies, charges = self.network(vectors, neighbors, reverse, species)
        energies, charges = energies.to(torch.float64), charges.to(torch.float64)
        torch.set_grad_enabled(before)
        return energies.detach(), charges.detach(), [[vectors, energies, charges, reverse]]

    @torch.jit.export
    def pull_back(
        self,
        grad_energies: torch.Tensor,
        grad_charges: torch.Tensor,
        saved: List[List[torch.Tensor]],
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """See `openmm_les.networks.mace.MACENetwork.pull_back`."""
        vectors, energies, charges, reverse = saved[0][0], saved[0][1], saved[0][2], saved[0][3]
        given: List[Optional[torch.Tensor]] = [grad_energies, grad_charges.to(torch.float64)]
        # TorchScript knows this signature alone, which torch's annotations leave out.
        found = torch.autograd.grad([energies, charges], [vectors], given)[0]  # type: ignore[arg-type]
        gradient = torch.zeros_like(vectors) if found is None else found.detach()
        strain = torch.einsum("nka,nkb->ab", gradient, vectors.detach())
        # What acts on r_j in the slot of a pair acts on r_i, with the other sign, in the reverse.
        flat = gradient.view(-1, 3)
        back = flat.index_select(0, reverse).view(gradient.shape)
        return (gradient - back).sum(1), strain
