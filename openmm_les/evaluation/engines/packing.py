"""All results of a module in one array, so that they are copied from a GPU at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
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


@dataclass(frozen=True)
class Layout:
    """How results lie in one array: those of the system, forces, and at the end the latents.

    Attributes:
        positions: how many positions and forces there are.
        atoms: how many of them, the first ones, have latents; those of others are zero.
        rows: latent numbers of each atom.
        single: the array is float32. Everything but the forces is then float64 in disguise: pairs
            of float32 with its bits.
    """

    positions: int
    atoms: int
    rows: int = 1
    single: bool = False

    @property
    def size(self) -> int:
        """Elements with the latents."""
        return self.size_of_forces + (1 + self.single) * self.rows * self.atoms

    @property
    def size_of_forces(self) -> int:
        """Elements up to the forces."""
        return (1 + self.single) * (_SCALARS + _STRAIN + 1) + 3 * self.positions

    def pack(self, results: tuple[Tensor, ...]) -> Tensor:
        """The `Results` of a model in one array."""
        energy, forces, charges, strain, *of_charges, status = results
        forces = forces.to(torch.float32) if self.single else forces
        charges = charges.narrow(-1, 0, self.atoms)
        parts = [status.to(torch.float64), energy, strain, *of_charges, forces, charges]
        word = torch.float32 if self.single else torch.float64
        return torch.cat([part.reshape(-1).view(word) for part in parts])

    def numbers(self, packed: npt.NDArray[Any], with_latents: bool = True) -> FloatArray:
        """The same in a new array, all of it float64; without latents these are zero there."""
        end = self.size_of_forces
        head, forces, latents = np.split(packed, [end - 3 * self.positions, end])
        if self.single:
            head, latents = head.view(np.float64), latents.view(np.float64)
        latents = latents if with_latents else np.zeros(self.rows * self.atoms)
        return np.concatenate([head, forces, latents])

    def unpack(self, numbers: FloatArray) -> dict[str, FloatArray]:
        """Parts of `numbers`, each in one dimension."""
        forces, latents = 3 * self.positions, self.rows * self.atoms
        parts, begin = {}, 0
        for name, size in (
            ("status", 1),
            ("energy", 1),
            ("strain derivative", _STRAIN),
            ("energy of the charges", len(numbers) - _SCALARS - _STRAIN - forces - latents),
            ("forces", forces),
            ("charges", latents),
        ):
            parts[name] = numbers[begin : begin + size]
            begin += size
        return parts


def compare(expected: Mapping[str, FloatArray], got: Mapping[str, FloatArray]) -> None:
    """Raise a `RuntimeError` if two results, by name, differ by more than rounding."""
    for name, one in expected.items():
        other = got[name]
        allowed = _ALMOST_ZERO + _ROUNDING * np.abs(np.nan_to_num(one)).max(initial=0.0)
        if not np.allclose(other, one, rtol=0.0, atol=allowed, equal_nan=True):
            raise RuntimeError(
                f"it gives other {name} than the module, different by up to "
                f"{np.abs(one - other).max():.3g}"
            )
