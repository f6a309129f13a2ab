"""Positions, cell and further inputs of a module, in one buffer that goes to its device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from openmm_les.arrays import FloatArray

#: Bits of a coordinate in fixed point, without its sign.
_BITS = 31
#: No unit of the fixed point is smaller, so that its inverse is finite.
_SMALLEST_EXPONENT = -900


class Inputs:
    """Inputs of a module for `num_positions` positions, on a device.

    Positions travel in float64, or with `exact` only those of these indices do; others have 31 bits
    of the power of two above the largest coordinate. Within 128 A that is exact to 6e-8 A, a
    hundredth of what as many bytes are as float32. `extra_inputs` are shapes of inputs besides
    positions and cell.

    Attributes:
        numbers: on the device; positions and cell grow by a factor when it is multiplied by it.
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
        # The last one is the unit of the fixed point [A].
        shapes = [(rows, 3), (3, 3), *extra_inputs, (1,)]
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
            return [*found, rest.view(torch.int32)[:coarse].view(-1, 3)]

        *self._arrays, self._unit, self._coarse = (view.numpy() for view in views(self._host))
        *self._tensors, self._unit_there, self._coarse_there = views(self._device)
        self._rows = None if exact is None else torch.from_numpy(self._exact).to(device)

    def send(self, positions: FloatArray, *others: FloatArray, length: float = 1.0) -> None:
        """Copy to the device, positions multiplied by `length`, and do not wait for it."""
        if self._exact is None:
            np.multiply(positions, length, out=self._arrays[0])
        else:
            np.multiply(positions[self._exact], length, out=self._arrays[0])
            unit = _fixed_point_unit(positions)
            self._unit[0] = unit * length
            if math.isfinite(unit):  # else every position is NaN there
                np.multiply(positions, 1.0 / unit, out=self._coarse, casting="unsafe")
        for array, values in zip(self._arrays[1:], others, strict=True):
            array[...] = values
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)

    def tensors(self) -> list[Tensor]:
        """Positions, cell and extra inputs on the device."""
        if self._rows is None:
            return self._tensors
        positions = self._coarse_there * self._unit_there
        return [positions.index_copy_(0, self._rows, self._tensors[0]), *self._tensors[1:]]


def _fixed_point_unit(positions: FloatArray) -> float:
    """What all coordinates are multiples of, up to rounding; NaN where one is not finite."""
    largest = float(max(positions.max(), -positions.min()))
    if not math.isfinite(largest):
        return math.nan
    return math.ldexp(1.0, max(math.frexp(largest)[1], _SMALLEST_EXPONENT) - _BITS)
