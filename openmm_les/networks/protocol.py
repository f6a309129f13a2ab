"""What every network offers to the modules that run it."""

from typing import Any, List, Optional, Protocol, Tuple, TypeVar

import torch
from torch import Tensor, nn

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
    neither TorchScript nor mypy knows another type for them. Lists called ``reversed`` hold the
    same modules as others: TorchScript cannot iterate a ModuleList backwards.
    """

    cutoff: float  #: distance beyond which atoms are no neighbours [A]
    rows: int  #: latent numbers of each atom: charges, or a charge and moments

    def eval(self) -> Any:
        """See `nn.Module.eval`."""
        ...

    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, Tape]:
        """Atomic energies and latent charges.

        Args:
            positions: shape [N, 3] [A], float64.
            neighbors: neighbour matrix of these positions.
            species: species index of each atom, ascending, shape [N].
            counts: number of atoms of each species.

        Returns:
            Energies without isolated-atom references [N] [eV]; charges [e] of shape [N], or
            [rows, N] where there are several, or moments in the layout of
            `openmm_les.networks.moments`; both float64; and what `pull_back` needs.
        """
        ...

    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: Tape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        """dE/dr of shape [N, 3] [eV/A] and dE/dstrain of shape [3, 3] [eV], float64.

        They follow from dE/de_i and dE/dq_i, of the shapes of energies and charges, the third
        result of `short_range`, and its `counts`. Strain e takes r to (1 + e) r: where energies are
        not invariant it matters which index is first.
        """
        ...

    def reserve(self, slots: int) -> None:
        """Set how many neighbours within an inner cutoff an atom may have, before scripting.

        0 slots stand for as many as a structure needs.
        """
        ...

    def outgrown(self, tape: Tape) -> Optional[Tensor]:
        """Whether an atom had more inner neighbours than are reserved, []; None: cannot happen."""
        ...


class NetworkModule(nn.Module):
    """Base of networks, without an inner cutoff and with one charge for each atom.

    `openmm_les.networks.build_network` makes all of them as ``Class(hyper, state, species, form)``,
    of the canonical hyper-parameters and float64 weights of the family
    (``docs/reference/formats``), the elements to keep, and a `Form`, of which a network takes what
    it has use for. Several charges for each atom are stated by the hyper-parameter
    ``charge_channels``, moments by ``moments``, and the attribute `rows` has the number of either.
    One whose hyper-parameters have ``conditions`` gets their values for each species as
    `conditions`, a float64 tensor [species, conditions].
    """

    rows: int = 1

    def reserve(self, slots: int) -> None:
        """See `Network.reserve`: there is nothing to reserve."""

    @torch.jit.export
    def outgrown(self, tape: Any) -> Optional[Tensor]:
        """See `Network.outgrown`. The tape is of any type, as TorchScript has no generic ones."""
        return None
