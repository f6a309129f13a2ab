"""All results of a module in one array, so that they are copied from a GPU at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from openmm_les.arrays import FloatArray

#: Numbers of dE/dstrain, and of status and energy before it.
_STRAIN, _SCALARS = 9, 2
#: What rounding may change, of the largest number of its kind. It is half the digits of single
#: precision; stretching changes forces by more than ten times that.
_ROUNDING = 3e-4
#: And where all numbers are small [eV, eV/A, e].
_ALMOST_ZERO = 1e-6


def packed_size(num_atoms: int, rows: int = 1) -> int:
    return _SCALARS + _STRAIN + (3 + rows) * num_atoms + 1


def pack(results: tuple[Tensor, ...]) -> Tensor:
    """The results of a `SpecializedModel` in one array of float64."""
    energy, forces, charges, strain, *of_charges, status = results
    parts = [status.to(torch.float64), energy, strain, forces, charges, *of_charges]
    return torch.cat([part.reshape(-1) for part in parts])


def unpack(packed: FloatArray, rows: int = 1) -> dict[str, FloatArray]:
    """The parts of what `pack` returns, each in one dimension; `rows` latent numbers an atom."""
    rest = len(packed) - _SCALARS - _STRAIN
    n = rest // (3 + rows)
    parts, begin = {}, 0
    for name, size in (
        ("status", 1),
        ("energy", 1),
        ("strain derivative", _STRAIN),
        ("forces", 3 * n),
        ("charges", rows * n),
        ("energy of the charges", rest - (3 + rows) * n),
    ):
        parts[name] = packed[begin : begin + size]
        begin += size
    return parts


def compare(expected: FloatArray, got: FloatArray, rows: int = 1) -> None:
    """Raise a `RuntimeError` if two results of `pack` differ by more than rounding."""
    compare_parts(unpack(expected, rows), unpack(got, rows))


def compare_parts(expected: Mapping[str, FloatArray], got: Mapping[str, FloatArray]) -> None:
    """The same for results by name."""
    for name, one in expected.items():
        other = got[name]
        allowed = _ALMOST_ZERO + _ROUNDING * np.abs(np.nan_to_num(one)).max(initial=0.0)
        if not np.allclose(other, one, rtol=0.0, atol=allowed, equal_nan=True):
            raise RuntimeError(
                f"it gives other {name} than the module, different by up to "
                f"{np.abs(one - other).max():.3g}"
            )
