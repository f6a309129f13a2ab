"""What every network offers to the modules that run it."""

from typing import Any, List, Optional, Protocol, Tuple, TypeVar

import torch
from torch import nn

from openmm_les.neighbors.matrix import Neighbors

#: The NamedTuple that a network's `short_range` hands to its `pull_back`.
Tape = TypeVar("Tape")


class Network(Protocol[Tape]):
    """Atomic energies and latent charges, and their pull-back to positions.

    The function of the positions is split where long-range electrostatics enters: `short_range`
    gives energies e_i and charges q_i, `pull_back` takes dE/de_i and dE/dq_i to forces and strain
    derivative. Every shape follows from those of the arguments, and nothing is read back from the
    device. Atoms are sorted by species.

    Networks are written for TorchScript and derive from `NetworkModule`. Inside of them
    ``nn.ModuleList`` attributes whose items have a `backward` are annotated with Any, since
    neither TorchScript nor mypy knows another type for them.

    Attributes:
        cutoff: distance beyond which atoms are no neighbours [A].
    """

    cutoff: float

    def eval(self) -> Any:
        """See `nn.Module.eval`."""
        ...

    def short_range(
        self,
        positions: torch.Tensor,
        neighbors: Neighbors,
        species: torch.Tensor,
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor, Tape]:
        """Atomic energies and latent charges.

        Args:
            positions: shape [N, 3] [A], float64.
            neighbors: neighbour matrix of these positions.
            species: species index of each atom, ascending, shape [N].
            counts: number of atoms of each species.

        Returns:
            Energies without isolated-atom references [N] [eV] and charges [N] [e], both float64,
            and what `pull_back` needs.
        """
        ...

    def pull_back(
        self,
        grad_energies: torch.Tensor,
        grad_charges: torch.Tensor,
        tape: Tape,
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Gradient of a function of energies and charges.

        Args:
            grad_energies: dE/de_i, shape [N], float64.
            grad_charges: dE/dq_i, shape [N].
            tape: third result of `short_range`.
            counts: as given to `short_range`.

        Returns:
            dE/dr of shape [N, 3] [eV/A] and dE/dstrain of shape [3, 3] [eV], float64.
        """
        ...

    def reserve(self, slots: int) -> None:
        """Set how many neighbours within an inner cutoff an atom may have, before scripting.

        Args:
            slots: their number; 0 stands for as many as a structure needs.
        """
        ...

    def outgrown(self, tape: Tape) -> Optional[torch.Tensor]:
        """Whether an atom had more inner neighbours than are reserved, []; None: cannot happen."""
        ...


class NetworkModule(nn.Module):
    """Base of networks, without an inner cutoff.

    All are made as ``Class(hyper, state, species, *, dtype, exact_radial, fold, few_kernels)``: the
    canonical hyper-parameters and float64 weights of the family (``docs/reference/formats``), and
    the arguments of `openmm_les.networks.build_network`, which makes them.
    """

    def reserve(self, slots: int) -> None:
        """See `Network.reserve`: there is nothing to reserve."""

    @torch.jit.export
    def outgrown(self, tape: Any) -> Optional[torch.Tensor]:
        """See `Network.outgrown`. The tape is of any type, as TorchScript has no generic ones."""
        return None
