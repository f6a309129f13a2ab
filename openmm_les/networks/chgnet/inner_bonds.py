"""The nearest neighbours among all, and the angles between them, with static shapes.

Angles need pairs of neighbours. Those within the three-body cutoff, some ten of a hundred, are
gathered in slots of their own, so that memory goes with the square of ten.
"""

from typing import NamedTuple, Tuple

import torch
from torch import Tensor, nn

#: MatGL keeps cosines this far from 1, where the angle has no derivative.
_COSINE_MARGIN = 1e-7


class InnerSlots(NamedTuple):
    """The T slots of each atom for neighbours within the inner cutoff."""

    slots: Tensor  #: flat slot of each inner slot [N * T].
    reverse: Tensor  #: inner slot that holds the same pair seen from the neighbour [N * T].
    used: Tensor  #: whether an inner slot holds a neighbour [N, T].
    places: Tensor  #: flat inner slot of each slot [N * K].
    inside: Tensor  #: whether a slot has an inner one [N * K].
    most: Tensor  #: the largest number of inner neighbours [], which may exceed T.


class AngleTape(NamedTuple):
    """Unit vectors [N, T, 3], distances [N, T, 1], cosines and angles [N, T, T]."""

    unit: Tensor
    distances: Tensor
    cosines: Tensor
    angles: Tensor


class InnerBonds(nn.Module):
    """Gathers the neighbours within an inner cutoff [A]."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.capacity = 0

    def forward(self, distances: Tensor, used: Tensor, reverse: Tensor) -> InnerSlots:
        """The inner slots, from distances [N, K] [A], and whether slots hold a neighbour [N, K]."""
        n, k = distances.shape[0], distances.shape[1]
        near = used & (distances <= self.cutoff)
        rank = torch.cumsum(near.to(torch.int64), 1)
        number = rank[:, k - 1 :]
        most = number.max()
        t = self.capacity
        if t == 0:
            t = max(1, int(most))
        near = near & (rank <= t)
        row = torch.arange(n, device=distances.device).unsqueeze(1)
        column = torch.arange(k, device=distances.device).unsqueeze(0).expand(n, k)
        # Column T collects what has no place, and is dropped.
        chosen = torch.zeros([n, t + 1], dtype=torch.int64, device=distances.device)
        chosen = chosen.scatter(1, torch.where(near, rank - 1, t), column)[:, :t]
        inner = torch.arange(t, device=distances.device).unsqueeze(0)
        filled = inner < number
        slots = (row * k + chosen).view(-1)
        places = (row * t + (rank - 1).clamp(0, t - 1)).view(-1)
        back = places.index_select(0, reverse.index_select(0, slots))
        back = torch.where(filled.view(-1), back, (row * t + inner).view(-1))
        return InnerSlots(slots, back, filled, places, near.view(-1), most)


class AngleBasis(nn.Module):
    """cos(f angle) and sin(f angle) of all pairs of inner neighbours.

    Frequencies are those of the cosines [F + 1]; the first of them has no sine. The dtype is that
    of the functions; angles themselves are float64, since close to 180 degrees single precision
    leaves nothing of them.
    """

    def __init__(self, frequencies: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.limit = 1.0 - _COSINE_MARGIN
        self.frequencies = nn.Buffer(frequencies.to(dtype))

    def _phases(self, angles: Tensor) -> Tensor:
        return angles.to(self.frequencies.dtype).unsqueeze(3) * self.frequencies

    def forward(self, vectors: Tensor) -> Tuple[Tensor, AngleTape]:
        """Functions of the angles [N, T, T, 2 F + 1], cosines first.

        Vectors [N, T, 3] [A], float64, point to an atom from its inner neighbours.
        """
        distances = torch.sqrt((vectors * vectors).sum(2, keepdim=True))
        unit = vectors / distances
        cosines = torch.bmm(unit, unit.transpose(1, 2))
        angles = torch.acos(cosines.clamp(-self.limit, self.limit))
        phases = self._phases(angles)
        values = torch.cat([torch.cos(phases), torch.sin(phases[:, :, :, 1:])], 3)
        return values, AngleTape(unit, distances, cosines, angles)

    @torch.jit.export
    def backward(self, grad: Tensor, tape: AngleTape) -> Tensor:
        """From dE/d(functions) to dE/d(vectors), float64."""
        unit, distances, cosines, angles = tape
        phases = self._phases(angles)
        slopes = torch.cat([-torch.sin(phases), torch.cos(phases[:, :, :, 1:])], 3)
        factors = torch.cat([self.frequencies, self.frequencies[1:]])
        grad_angles = (grad * slopes * factors).sum(3).to(torch.float64)
        inside = (cosines.abs() <= self.limit).to(torch.float64)
        grad_cosines = -grad_angles / torch.sin(angles) * inside
        grad_unit = torch.bmm(grad_cosines + grad_cosines.transpose(1, 2), unit)
        along = unit * (unit * grad_unit).sum(2, keepdim=True)
        return (grad_unit - along) / distances
