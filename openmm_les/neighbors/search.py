"""What the two searches for neighbours have in common."""

from typing import List, NamedTuple, Tuple

import torch

#: Atoms closer than this [A] are taken to be at the same place.
COINCIDENT_DISTANCE = 1e-3


class Found(NamedTuple):
    """Result of a search; all but the first have the shape []."""

    #: image * N + atom of the neighbours in ascending order, S * N in unused slots, with S images,
    #: shape [N, K].
    columns: torch.Tensor
    largest: torch.Tensor  #: the largest number of neighbours.
    coincident: torch.Tensor  #: whether two atoms are at the same place.
    crowded: torch.Tensor  #: whether more candidates were near than were looked at.


def compact(
    near: torch.Tensor, values: torch.Tensor, capacity: int, empty: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The first K values [R, M] of each row that are near, and how many there are in all.

    Unused slots of the result [R, K] are `empty`.
    """
    slots = torch.cumsum(near, 1)
    number = slots[:, -1]
    # Slot `capacity` collects what has no place, and is dropped.
    slots = torch.where(near & (slots <= capacity), slots - 1, capacity)
    out = torch.full([near.shape[0], capacity + 1], empty, device=near.device)
    return out.scatter_(1, slots, values)[:, :capacity], number


def cartesian(components: List[torch.Tensor], cell: torch.Tensor) -> List[torch.Tensor]:
    """Components of vectors [A] from those along the lattice vectors.

    A product with a matrix as small as a cell would take several times as long on a CPU.
    """
    return [
        components[0] * cell[0, axis]
        + components[1] * cell[1, axis]
        + components[2] * cell[2, axis]
        for axis in range(3)
    ]
