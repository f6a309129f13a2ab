"""Cartesian tensors from equivariant features, and the latents that sums of readouts become.

Tensors are flattened row by row, as in `openmm_les.electrostatics.multipoles.LatentLayout`.
Formulas: arXiv 2605.05746 (Cheng and co-workers, 2026).
"""

from typing import List, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.multipoles import LatentLayout


def symmetric_rows(basis: Tensor) -> Tensor:
    """The symmetric parts of tensors [k, 3, 3], as rows: shape [k, 9]."""
    return 0.5 * (basis + basis.transpose(1, 2)).flatten(1)


def dyadic_sum(vectors: Tensor, weights: Tensor) -> Tensor:
    """Sums of outer products of vectors [3, N, C], as rows [9, N].

    With weights [N, C] they are sum_c w_c v_c v_c^T, with symmetric matrices [N, C, C] they are
    sum_cd M_cd v_c v_d^T.
    """
    v = vectors.transpose(0, 1)
    return (v @ _weighted(v, weights).transpose(1, 2)).flatten(1).t()


def dyadic_sum_backward(grad: Tensor, vectors: Tensor, weights: Tensor) -> Tuple[Tensor, Tensor]:
    """From dE/d(rows) [9, N] of symmetric tensors to dE/d(vectors) and dE/d(weights)."""
    v = vectors.transpose(0, 1)
    slopes = grad.t().reshape(-1, 3, 3)
    grad_vectors = 2.0 * (slopes @ _weighted(v, weights)).transpose(0, 1)
    pulled = slopes @ v
    if weights.dim() == 2:
        return grad_vectors, (v * pulled).sum(1)
    return grad_vectors, v.transpose(1, 2) @ pulled


def _weighted(vectors: Tensor, weights: Tensor) -> Tensor:
    return vectors * weights.unsqueeze(1) if weights.dim() == 2 else vectors @ weights


class RowMap(nn.Module):
    """A linear map from all components and channels of one degree to rows of latents.

    Weights have the shape [2l + 1, C, rows].
    """

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.components, self.channels = weights.shape[0], weights.shape[1]
        self.weights = nn.Buffer(weights.flatten(0, 1))

    def forward(self, features: Tensor) -> Tensor:
        """From features [2l + 1, N, C] to rows [rows, N]."""
        return (features.transpose(0, 1).flatten(1) @ self.weights).t()

    @torch.jit.export
    def backward(self, grad: Tensor) -> Tensor:
        """From dE/d(rows) [rows, N] to dE/d(features) [2l + 1, N, C]."""
        pulled = grad.t() @ self.weights.t()
        return pulled.view(-1, self.components, self.channels).transpose(0, 1)


class FinalLatents(nn.Module):
    """From sums of readouts x to latents: scale * f(x) + shift of the species.

    f takes the trace from quadrupoles, and makes kappa and alpha positive where the model says so:
    by ``"square"``, which of tensors is A A^T, or by ``"softplus"``, which is for scalars only;
    ``""`` leaves them as they are.

    Args:
        scale: of each row, shape [rows].
        shifts: of each row and species, shape [rows, Z].
    """

    layout: LatentLayout  # TorchScript would take it for a plain tuple

    def __init__(
        self, layout: LatentLayout, scale: Tensor, shifts: Tensor, kappa: str = "", alpha: str = ""
    ) -> None:
        super().__init__()
        self.layout = layout
        self.kappa, self.alpha = kappa, alpha
        #: Rows before the first that may be positive.
        self.permanent = 1 + 3 * (layout.dipoles >= 0) + 9 * (layout.quadrupoles >= 0)
        self.scale = nn.Buffer(scale.unsqueeze(1))
        self.shifts = nn.Buffer(shifts)
        unit = torch.eye(3, dtype=torch.float64).view(9, 1)
        self.traceless = nn.Buffer(torch.eye(9, dtype=torch.float64) - unit @ unit.t() / 3)

    def forward(self, x: Tensor, species: Tensor) -> Tensor:
        """Latents [rows, N], float64, of x [rows, N], float64, and species [N]."""
        parts = self._permanent(x)
        if self.layout.kappa >= 0:
            parts.append(_positive(_rows(x, self.layout.kappa, 1), self.kappa))
        if self.layout.alpha >= 0:
            parts.append(_positive(_rows(x, self.layout.alpha, self.layout.alpha_rows), self.alpha))
        return torch.cat(parts) * self.scale + self.shifts.index_select(1, species)

    @torch.jit.export
    def backward(self, grad: Tensor, x: Tensor) -> Tensor:
        """From dE/d(latents) [rows, N] to dE/dx, symmetric for tensors."""
        grad = grad.to(torch.float64) * self.scale
        parts = self._permanent(grad)
        if self.layout.kappa >= 0:
            first, count = self.layout.kappa, 1
            parts.append(_pulled(_rows(grad, first, count), _rows(x, first, count), self.kappa))
        if self.layout.alpha >= 0:
            first, count = self.layout.alpha, self.layout.alpha_rows
            parts.append(_pulled(_rows(grad, first, count), _rows(x, first, count), self.alpha))
        return torch.cat(parts)

    def _permanent(self, x: Tensor) -> List[Tensor]:
        """Charges, dipoles and traceless quadrupoles; of a gradient, what it is by them."""
        first = self.layout.quadrupoles
        if first < 0:
            return [x[: self.permanent]]
        return [x[:first], self.traceless @ _rows(x, first, 9)]


def _rows(x: Tensor, first: int, count: int) -> Tensor:
    return x[first : first + count]


def _positive(x: Tensor, how: str) -> Tensor:
    """x [1 or 9, N] as it is, or positive."""
    if how == "softplus":
        return torch.nn.functional.softplus(x)
    if how != "square":
        return x
    if x.shape[0] == 1:
        return x * x
    tensor = x.t().reshape(-1, 3, 3)
    return (tensor @ tensor.transpose(1, 2)).flatten(1).t()


def _pulled(grad: Tensor, x: Tensor, how: str) -> Tensor:
    """From dE/d(positive x) to dE/dx, which for tensors is symmetric."""
    if x.shape[0] == 1:
        if how == "softplus":
            return grad * torch.sigmoid(x)
        return 2.0 * grad * x if how == "square" else grad
    slopes = grad.t().reshape(-1, 3, 3)
    slopes = 0.5 * (slopes + slopes.transpose(1, 2))
    if how == "square":
        product = slopes @ x.t().reshape(-1, 3, 3)
        slopes = product + product.transpose(1, 2)
    return slopes.flatten(1).t()
