"""Tables of radial features for a CPU, read in one pass over the pairs."""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from openmm_les.networks.blocks.radial import TabulatedRadial
from openmm_les.networks.kernels.numba.compiler import compiled
from openmm_les.networks.kernels.numba.operators import operator


@compiled
def _read(
    distances: Any, first: Any, table: Any, points: int, inverse: float, values: Any, slopes: Any
) -> None:
    """Writes values and slopes [E, P] of cubics in a table [rows, 4, P], from rows `first` [E] on.

    `points` are those of a table, and `inverse` is that of their spacing.
    """
    scale, two, three = table.dtype.type(inverse), table.dtype.type(2), table.dtype.type(3)
    for e in range(len(distances)):
        t = distances[e] * scale
        # Beyond the table, and for NaN, the last row is read, which is zero.
        row = int(t) if t < points - 1 else points - 1
        x = t - table.dtype.type(row)
        c = table[first[e] + row]
        for p in range(table.shape[2]):
            a, b, d = c[1, p], c[2, p], c[3, p]
            values[e, p] = c[0, p] + x * (a + x * (b + x * d))
            slopes[e, p] = (a + x * (two * b + three * x * d)) * scale


@operator(
    "radial_features(Tensor distances, Tensor first, Tensor table, int points, float inverse) "
    "-> (Tensor, Tensor)"
)
def _radial_features(
    distances: Tensor, first: Tensor, table: Tensor, points: int, inverse: float
) -> Tuple[Tensor, Tensor]:
    values = distances.new_empty([len(distances), table.shape[2]])
    slopes = torch.empty_like(values)
    arrays = [t.numpy() for t in (distances, first, table, values, slopes)]
    _read(*arrays[:3], points, inverse, *arrays[3:])
    return values, slopes


class LoopRadial(TabulatedRadial):
    """`TabulatedRadial`, read by a loop."""

    def forward(self, distances: Tensor, pairs: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """See `ExactRadial.forward`."""
        first = torch.zeros_like(distances, dtype=torch.int64)
        if self.by_pair and pairs is not None:
            first = self.first_row.index_select(0, pairs)
        features: Tuple[Tensor, Tensor] = torch.ops.openmm_les_loops.radial_features(
            distances, first, self.table, self.last + 1, self.inverse_spacing
        )
        return features
