"""Positions, cell and further inputs of a module, in one buffer that goes to its device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openmm_les.arrays import FloatArray


class Inputs:
    """Inputs of a module for `num_positions` positions, on a device.

    Positions are sent in float64. With `exact`, only those of these indices are; of others their
    distances from the first of these are, in float32, which is right to 5e-7 A within 16 A.
    `extra_inputs` are shapes of inputs besides positions and cell.

    Attributes:
        numbers: those on the device; positions and cell are in proportion to them.
    """

    def __init__(
        self,
        num_positions: int,
        device: torch.device,
        extra_inputs: Sequence[tuple[int, ...]] = (),
        exact: Sequence[int] | None = None,
    ) -> None:
        self._exact = None if exact is None else np.array(exact, dtype=np.int64)
        rows = num_positions if exact is None else len(exact)
        # Unit and origin of the distances come last.
        shapes = [(rows, 3), (3, 3), *extra_inputs, (1,), (3,)]
        coarse = 0 if exact is None else 3 * num_positions
        sizes = [math.prod(shape) for shape in shapes]
        self._host = torch.zeros(
            sum(sizes) + (coarse + 1) // 2, dtype=torch.float64, pin_memory=device.type == "cuda"
        )
        self._device = self._host.to(device)
        self.numbers = self._device[: sum(sizes)]

        def views(buffer: Tensor) -> list[Tensor]:
            *pieces, rest = torch.split(buffer, [*sizes, len(buffer) - sum(sizes)])
            found = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
            return [*found, rest.view(torch.float32)[:coarse].view(-1, 3)]

        *self._arrays, self._unit, self._origin, self._offsets = map(np.asarray, views(self._host))
        *self._tensors, self._unit_there, self._origin_there, self._offsets_there = views(
            self._device
        )
        self._rows = None if exact is None else torch.from_numpy(self._exact).to(device)

    def send(self, positions: FloatArray, *others: FloatArray, length: float = 1.0) -> None:
        """Copy to the device, positions multiplied by `length`, and do not wait for it."""
        if self._exact is None:
            np.multiply(positions, length, out=self._arrays[0])
        else:
            np.multiply(positions[self._exact], length, out=self._arrays[0])
            self._unit[:], self._origin[:] = length, self._arrays[0][0]
            with np.errstate(over="ignore"):
                np.subtract(
                    positions, positions[self._exact[0]], out=self._offsets, casting="same_kind"
                )
        for array, values in zip(self._arrays[1:], others, strict=True):
            array[...] = values
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)

    def tensors(self) -> list[Tensor]:
        """Positions, cell and extra inputs on the device."""
        if self._rows is None:
            return self._tensors
        positions = torch.addcmul(self._origin_there, self._offsets_there, self._unit_there)
        return [positions.index_copy_(0, self._rows, self._tensors[0]), *self._tensors[1:]]
