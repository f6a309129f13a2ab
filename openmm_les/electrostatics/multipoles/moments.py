"""Multipoles of sites as the coefficients of a differential operator, and derivatives of a field.

A site with charge q, dipole u and quadrupole Q acts like ``q + u . grad + Q : grad grad / 2`` on
what a unit charge does. In the coordinates of a kernel (fractional ones, or points of a mesh) this
is a sum of products of derivatives along three axes. Both these coefficients and the derivatives of
a potential are listed by multi-indices, in the order of `multi_indices`.
"""

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

#: Pairs of Cartesian axes of a symmetric tensor, in the order of the multi-indices of degree 2.
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


class SiteMoments(NamedTuple):
    """Latent moments and response coefficients of n sites; None for what a model lacks."""

    charges: Tensor  #: q, shape [n] [e].
    dipoles: Optional[Tensor] = None  #: u, shape [n, 3] [e A].
    #: Q, symmetric and traceless, the primitive second moments, shape [n, 3, 3] [e A^2].
    quadrupoles: Optional[Tensor] = None
    kappa: Optional[Tensor] = None  #: charge response, shape [n] [e/V].
    #: Polarizability, shape [n], or symmetric and [n, 3, 3] [e A^2/V].
    alpha: Optional[Tensor] = None


class Multipoles(NamedTuple):
    """Moments of n sites, zeros included; or the derivatives of an energy by them."""

    charges: Tensor  #: shape [n] [e].
    dipoles: Tensor  #: shape [n, 3] [e A].
    quadrupoles: Tensor  #: symmetric, shape [n, 3, 3] [e A^2].


def multipoles_of(
    charges: Tensor, dipoles: Optional[Tensor], quadrupoles: Optional[Tensor]
) -> Multipoles:
    """Moments in the dtype of the charges, with zeros for what there is not."""
    n = charges.shape[0]
    return Multipoles(
        charges,
        charges.new_zeros([n, 3]) if dipoles is None else dipoles.to(charges.dtype),
        charges.new_zeros([n, 3, 3]) if quadrupoles is None else quadrupoles.to(charges.dtype),
    )


def deformation(moments: Multipoles, derivatives: Multipoles) -> Tensor:
    """What an energy gains, by strain, where moments deform with the box, float64, [3, 3]."""
    dipoles = derivatives.dipoles.to(torch.float64).t() @ moments.dipoles.to(torch.float64)
    rows = derivatives.quadrupoles.to(torch.float64).flatten(0, 1)
    return dipoles + 2.0 * rows.t() @ moments.quadrupoles.to(torch.float64).flatten(0, 1)


def traceless(tensors: Tensor) -> Tensor:
    """Symmetric tensors [n, 3, 3] without their trace."""
    trace = tensors.diagonal(0, 1, 2).sum(dim=1) / 3.0
    return tensors - torch.diag_embed(trace.unsqueeze(1).expand(-1, 3))


def multi_indices(degree: int) -> List[Tuple[int, int, int]]:
    """All (a, b, c) with a + b + c <= degree, by their sum, then falling in a, then in b."""
    return [
        (a, b, total - a - b)
        for total in range(degree + 1)
        for a in range(total, -1, -1)
        for b in range(total - a, -1, -1)
    ]


def count_indices(degree: int) -> int:
    """How many multi-indices there are up to a degree."""
    return (degree + 1) * (degree + 2) * (degree + 3) // 6


def places_of_sums(first: int, second: int) -> Tensor:
    """Places of the sums of all multi-indices up to two degrees, shape [first, second]."""
    places = {index: place for place, index in enumerate(multi_indices(first + second))}
    sums = [
        [places[s[0] + t[0], s[1] + t[1], s[2] + t[2]] for t in multi_indices(second)]
        for s in multi_indices(first)
    ]
    return torch.tensor(sums)


def signs(degree: int) -> Tensor:
    """-1 for the odd ones of the multi-indices up to a degree, 1 for the others."""
    return torch.tensor([(-1.0) ** sum(index) for index in multi_indices(degree)])


def places_in_cube(indices: Tensor, degree: int) -> Tensor:
    """Flat places of the multi-indices up to a degree, listed [m, 3], in a cube of all orders."""
    a, b, c = indices[: count_indices(degree)].unbind(1)
    return (a * (degree + 1) + b) * (degree + 1) + c


def in_cube(coefficients: Tensor, indices: Tensor, degree: int) -> Tensor:
    """Coefficients by their orders along the axes z, x and y, with zeros beyond the degree.

    From [n, count_indices(degree)], and the multi-indices, to [n, size (z) * size (x), size (y)].
    """
    n, size = coefficients.shape[0], degree + 1
    cube = coefficients.new_zeros([n, size * size * size])
    cube.index_copy_(1, places_in_cube(indices, degree), coefficients)
    return cube.view(n, size, size, size).permute(0, 3, 1, 2).reshape(n, size * size, size)


class MomentAlgebra(nn.Module):
    """From Cartesian moments to coefficients and from derivatives of a potential back.

    A basis B [3, 3], float64, has ``grad = B grad'`` with grad' along the axes of the kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        symmetric = [_PAIRS.index((min(a, b), max(a, b))) for a in range(3) for b in range(3)]
        self.upper = nn.Buffer(torch.tensor([3 * a + b for a, b in _PAIRS]))
        self.symmetric = nn.Buffer(torch.tensor(symmetric))
        #: Half of the tensor, of which entries off the diagonal are there twice.
        self.shares = nn.Buffer(torch.tensor([0.5 if a == b else 1.0 for a, b in _PAIRS]))
        self.raised = nn.Buffer(places_of_sums(1, 2)[1:])  # by one along each axis

    def coefficients(self, moments: Multipoles, basis: Tensor, degree: int) -> Tensor:
        """Coefficients up to a degree, shape [n, count_indices(degree)], computed in float64."""
        parts = [moments.charges.to(torch.float64).unsqueeze(1)]
        if degree > 0:
            parts.append(moments.dipoles.to(torch.float64) @ basis)
        if degree > 1:
            mapped = basis.t() @ moments.quadrupoles.to(torch.float64) @ basis
            mapped = 0.5 * (mapped + mapped.transpose(1, 2))
            parts.append(mapped.flatten(1).index_select(1, self.upper) * self.shares)
        return torch.cat(parts, dim=1).to(moments.charges.dtype)

    def cartesian(self, derivatives: Tensor, basis: Tensor) -> Multipoles:
        """Potential, its gradient, and half of its second derivatives (0 where not given).

        They are the derivatives of an energy by moments, from those by the coefficients, [n, 4] or
        more.
        """
        n = derivatives.shape[0]
        basis = basis.to(derivatives.dtype)
        second = derivatives.new_zeros([n, 3, 3])
        if derivatives.shape[1] >= 10:
            second = derivatives[:, 4:10].index_select(1, self.symmetric).view(n, 3, 3)
            second = 0.5 * (basis @ second @ basis.t())
        return Multipoles(derivatives[:, 0], derivatives[:, 1:4] @ basis.t(), second)

    def gradient(self, coefficients: Tensor, derivatives: Tensor, basis: Tensor) -> Tensor:
        """dE/dr [n, 3], from coefficients and derivatives of one degree more at least."""
        n, number = coefficients.shape
        raised = self.raised[:, :number].flatten()
        chosen = derivatives.index_select(1, raised).view(n, 3, number)
        slopes = torch.bmm(chosen, coefficients.unsqueeze(2)).squeeze(2)
        return slopes @ basis.t().to(slopes.dtype)
