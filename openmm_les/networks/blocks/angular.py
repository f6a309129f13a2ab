"""Real spherical harmonics and Wigner 3j symbols, in the convention of the e3nn library.

Real harmonics of degree l are ordered m = -l..l with the y axis as polar axis, so that degree 1 is
(x, y, z), and are scaled to "component" normalisation, |Y_l|^2 = 2l + 1.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import factorial, sqrt
from typing import List, Tuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from openmm_les.arrays import FloatArray

#: Wigner 3j symbols of three degrees.
Symbols = Callable[[int, int, int], FloatArray]


def _complex_clebsch_gordan(l1: int, l2: int, l3: int) -> FloatArray:
    """Clebsch-Gordan coefficients <l1 m1 l2 m2 | l3 m3> for complex harmonics (Racah's formula).

    An array [2*l1+1, 2*l2+1, 2*l3+1], in Condon-Shortley phases.
    """
    f = factorial
    out = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    triangle = (
        (2 * l3 + 1) * f(l3 + l1 - l2) * f(l3 - l1 + l2) * f(l1 + l2 - l3) / f(l1 + l2 + l3 + 1)
    )
    for m1 in range(-l1, l1 + 1):
        for m2 in range(-l2, l2 + 1):
            m3 = m1 + m2
            if abs(m3) > l3:
                continue
            magnitudes = f(l3 + m3) * f(l3 - m3) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
            total = 0.0
            for k in range(l1 + l2 - l3 + 1):
                denominators = (
                    k,
                    l1 + l2 - l3 - k,
                    l1 - m1 - k,
                    l2 + m2 - k,
                    l3 - l2 + m1 + k,
                    l3 - l1 - m2 + k,
                )
                if min(denominators) < 0:
                    continue
                product = 1
                for d in denominators:
                    product *= f(d)
                total += (-1) ** k / product
            out[l1 + m1, l2 + m2, l3 + m3] = sqrt(triangle * magnitudes) * total
    return out


def _real_to_complex(degree: int) -> npt.NDArray[np.complex128]:
    """Unitary change of basis from real to complex harmonics of one degree, phase (-i)^l."""
    q = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=np.complex128)
    q[degree, degree] = 1.0
    for m in range(1, degree + 1):
        q[degree - m, degree + m] = 1 / sqrt(2)
        q[degree - m, degree - m] = -1j / sqrt(2)
        q[degree + m, degree + m] = (-1) ** m / sqrt(2)
        q[degree + m, degree - m] = 1j * (-1) ** m / sqrt(2)
    return np.asarray((-1j) ** degree * q)


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> FloatArray:
    """Real Wigner 3j symbol [2*l1+1, 2*l2+1, 2*l3+1] (read-only), with Frobenius norm 1.

    For even l1 + l2 + l3, all that harmonics of natural parity need, it equals e3nn's in every
    version; for odd sums the sign of a few symbols differs between e3nn's versions.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"degrees ({l1}, {l2}, {l3}) violate the triangle inequality")
    coupled = np.einsum(
        "ai,bj,ck,abc->ijk",
        _real_to_complex(l1),
        _real_to_complex(l2),
        _real_to_complex(l3).conj(),
        _complex_clebsch_gordan(l1, l2, l3),
        optimize=True,
    )
    real = np.ascontiguousarray(coupled.real)
    real /= np.linalg.norm(real)
    real.setflags(write=False)
    return real


def rounded_wigner_3j(l1: int, l2: int, l3: int) -> FloatArray:
    """`wigner_3j` as e3nn's modules hold it if they were made in float32.

    Those for which they have a formula, with a scalar among the three, are not rounded.
    """
    exact = wigner_3j(l1, l2, l3)
    return exact.astype(np.float32).astype(np.float64) if min(l1, l2, l3) else exact


def parity_ordered_degrees(lmax: int) -> List[int]:
    """Degrees 0..lmax, even ones first: the order of components everywhere inside the networks.

    Products of components only couple to results of the right parity, so that contiguous even and
    odd blocks halve the work of the product basis.
    """
    return [*range(0, lmax + 1, 2), *range(1, lmax + 1, 2)]


def degree_offsets(lmax: int) -> List[int]:
    """First component of each degree 0..lmax in parity order (index = degree)."""
    offsets = [0] * (lmax + 1)
    position = 0
    for degree in parity_ordered_degrees(lmax):
        offsets[degree] = position
        position += 2 * degree + 1
    return offsets


def parity_permutation(lmax: int) -> List[int]:
    """For each component in parity order, its place in natural order (l ascending)."""
    return [
        i for degree in parity_ordered_degrees(lmax) for i in range(degree**2, (degree + 1) ** 2)
    ]


def path_couplings(
    paths: Sequence[Tuple[int, int, int]], lmax: int, symbols: Symbols
) -> List[Tensor]:
    """What takes harmonics of a pair [S] to the angular factors of each path, [S, d_node * d_out].

    Paths are (degree of node, of edge, of output), harmonics go up to `lmax`.
    """
    offsets = degree_offsets(lmax)
    couplings = []
    for node, edge, out in paths:
        coupling = torch.zeros((lmax + 1) ** 2, (2 * node + 1) * (2 * out + 1), dtype=torch.float64)
        symbol = torch.tensor(symbols(node, edge, out))
        rows = slice(offsets[edge], offsets[edge] + 2 * edge + 1)
        coupling[rows] = symbol.transpose(0, 1).flatten(1)
        couplings.append(coupling)
    return couplings


def _recursion_factors(lmax: int) -> List[float]:
    """Factors a_l of Y_l = a_l * wigner_3j(l-1, 1, l) : Y_{l-1} (x) u, so that Y_l(y axis) > 0."""
    factors = [0.0]
    for degree in range(1, lmax + 1):
        # On the polar axis only m = 0 survives, with the value sqrt(2l + 1).
        coupling = wigner_3j(degree - 1, 1, degree)[degree - 1, 1, degree]
        factors.append(sqrt(2 * degree + 1) / (sqrt(2 * degree - 1) * coupling))
    return factors


def harmonic_couplings(lmax: int) -> List[Tuple[int, int, int, float]]:
    """What harmonics are made of: Y_a = sum of f Y_b u_i over the terms (a, b, i, f) of a, Y_0 = 1.

    Components are in natural order, those of a degree after all that they are made of, and
    l f Y_b is what the term adds to the gradient of the solid harmonic r^l Y_a along axis i.
    """
    factors = _recursion_factors(lmax)
    terms = []
    for degree in range(1, lmax + 1):
        coupling = factors[degree] * wigner_3j(degree - 1, 1, degree)
        for component in range(2 * degree + 1):
            for lower, axis in np.argwhere(np.abs(coupling[:, :, component]) > 1e-12).tolist():
                factor = float(coupling[lower, axis, component])
                terms.append((degree**2 + component, (degree - 1) ** 2 + lower, axis, factor))
    return terms


class _Raise(nn.Module):
    """Y_l from Y_{l-1} by coupling with the unit vector."""

    def __init__(self, coupling: FloatArray, dtype: torch.dtype) -> None:
        super().__init__()
        self.coupling = nn.Buffer(torch.tensor(coupling, dtype=dtype))

    def forward(self, lower: Tensor, unit: Tensor) -> Tensor:
        return (lower.unsqueeze(2) * unit.unsqueeze(1)).flatten(1) @ self.coupling


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics of unit vectors and their gradient, in parity order.

    Degrees are 0..lmax >= 1. Y_l follows from Y_{l-1} by coupling with the vector. The gradient of
    the solid harmonic r^l Y_l is again a coupling of Y_{l-1}, so the backward pass needs no new
    values.
    """

    def __init__(self, lmax: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.size = (lmax + 1) ** 2
        self.degrees: List[int] = parity_ordered_degrees(lmax)
        factors = _recursion_factors(lmax)
        offsets = degree_offsets(lmax)
        self.num_lower = max(offsets[degree] + 2 * degree + 1 for degree in range(lmax))
        gradient = np.zeros((self.size, 3, self.num_lower))
        raises = []
        for degree in range(1, lmax + 1):
            coupling = factors[degree] * wigner_3j(degree - 1, 1, degree)
            raises.append(_Raise(coupling.reshape(-1, 2 * degree + 1), dtype))
            lower = slice(offsets[degree - 1], offsets[degree - 1] + 2 * degree - 1)
            here = slice(offsets[degree], offsets[degree] + 2 * degree + 1)
            # Euler's theorem, u . grad(r^l Y_l) = l Y_l, fixes the factor of the gradient.
            gradient[here, :, lower] = degree * coupling.transpose(2, 1, 0)
        self.raises = nn.ModuleList(raises)
        self.gradient = nn.Buffer(torch.tensor(gradient.reshape(self.size, -1), dtype=dtype))

    def forward(self, unit: Tensor) -> Tensor:
        """Harmonics of unit vectors [E, 3], shape [E, (lmax + 1)^2]."""
        values = [torch.ones_like(unit[:, :1])]
        for step in self.raises:
            values.append(step(values[-1], unit))
        return torch.cat([values[degree] for degree in self.degrees], dim=1)

    @torch.jit.export
    def backward(self, grad: Tensor, harmonics: Tensor) -> Tensor:
        """From dE/dY and Y to dE/du of the solid harmonics, [E, 3], taken at the unit vector.

        Its radial part is not meaningful: the caller projects it out.
        """
        weights = (grad @ self.gradient).view(-1, 3, self.num_lower)
        return (weights * harmonics[:, : self.num_lower].unsqueeze(1)).sum(2)
