"""Radial features of a pair distance: Bessel functions through an MLP, exact or tabulated.

A layer of MACE or NequIP multiplies its tensor-product paths with ``MLP(bessel(r))``. The MLP's
last, linear layer commutes with everything that follows, so only the hidden features phi(r) and
their derivative are computed per pair. They are smooth functions of one variable and of low
numerical rank: in single precision a cubic Hermite table of a compressed basis replaces the MLP.
"""

from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch
from torch import nn

from openmm_les.networks.blocking import block_limits, block_size


class BesselBasis(nn.Module):
    """prefactor * sin(w_n r) / r times the polynomial cutoff of MACE, with d/dr.

    Batatia et al., NeurIPS 35, 11423 (2022); the envelope is that of Gasteiger et al., ICLR 2020.

    Args:
        frequencies: w_n of shape [n], [1/A].
        prefactor: usually sqrt(2 / cutoff).
        cutoff: radius [A] from which on the function is exactly zero.
        order: p of the polynomial envelope 1 - O(x^p).
    """

    def __init__(
        self, frequencies: torch.Tensor, prefactor: float, cutoff: float, order: int
    ) -> None:
        super().__init__()
        self.frequencies: torch.Tensor
        self.register_buffer("frequencies", frequencies)
        self.prefactor = prefactor
        self.cutoff = cutoff
        self.order = order

    def forward(self, distances: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Values and derivatives [1/A], each of shape [E, n], for distances of shape [E] [A]."""
        r = distances.unsqueeze(1)
        x = r / self.cutoff
        p = float(self.order)
        a, b, c = 0.5 * (p + 1.0) * (p + 2.0), p * (p + 2.0), 0.5 * p * (p + 1.0)
        lower = x ** (self.order - 1)
        power = lower * x
        inside = (x < 1.0).to(r.dtype)
        envelope = (1.0 - a * power + b * power * x - c * power * x * x) * inside
        slope = lower * ((b * (p + 1.0) - c * (p + 2.0) * x) * x - a * p) * inside / self.cutoff
        bessel = self.prefactor * torch.sin(self.frequencies * r) / r
        bessel_slope = (
            self.prefactor * self.frequencies * torch.cos(self.frequencies * r) - bessel
        ) / r
        return bessel * envelope, bessel_slope * envelope + bessel * slope


class _SiluLayer(nn.Module):
    """One MLP layer with forward-mode derivative."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight: torch.Tensor
        self.register_buffer("weight", weight)

    def forward(self, x: torch.Tensor, dx: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        z = x @ self.weight
        s = torch.sigmoid(z)
        return z * s, (dx @ self.weight) * (s * (1.0 + z * (1.0 - s)))


class _HiddenLayers(nn.Module):
    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_SiluLayer(weight) for weight in weights)

    def forward(self, x: torch.Tensor, dx: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        for layer in self.layers:
            x, dx = layer(x, dx)
        return x, dx


class ExactRadial(nn.Module):
    """Hidden MLP features of all interaction layers, side by side, from the network itself.

    Args:
        basis: the radial basis shared by the layers.
        hidden_weights: for each interaction layer the hidden weight matrices [h_in, h_out].
    """

    def __init__(
        self, basis: BesselBasis, hidden_weights: Sequence[Sequence[torch.Tensor]]
    ) -> None:
        super().__init__()
        self.basis = basis
        self.mlps = nn.ModuleList(_HiddenLayers(weights) for weights in hidden_weights)

    def forward(self, distances: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Features and their derivatives, each of shape [E, P], for distances of shape [E] [A]."""
        x, dx = self.basis(distances)
        values: List[torch.Tensor] = []
        slopes: List[torch.Tensor] = []
        for mlp in self.mlps:
            value, slope = mlp(x, dx)
            values.append(value)
            slopes.append(slope)
        return torch.cat(values, 1), torch.cat(slopes, 1)


class TabulatedRadial(nn.Module):
    """Cubic Hermite table of radial features on a uniform grid from 0 to the cutoff.

    Args:
        values, slopes: features and derivatives at the grid points, shape [G, P], float64.
        cutoff: last grid point [A]; the features are zero from there on.
        dtype: dtype of the table.
    """

    def __init__(
        self, values: torch.Tensor, slopes: torch.Tensor, cutoff: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        points, self.num_features = values.shape
        self.limits = block_limits()
        spacing = cutoff / (points - 1)
        self.inverse_spacing = 1.0 / spacing
        self.last = points - 1
        f0, f1 = values[:-1], values[1:]
        d0, d1 = slopes[:-1] * spacing, slopes[1:] * spacing
        cubic = torch.stack([f0, d0, 3 * (f1 - f0) - 2 * d0 - d1, 2 * (f0 - f1) + d0 + d1], 1)
        outside = torch.zeros(1, 4, self.num_features, dtype=values.dtype)
        self.table: torch.Tensor
        self.register_buffer("table", torch.cat([cubic, outside]).to(dtype))

    def forward(self, distances: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Features and their derivatives, each of shape [E, P], for distances of shape [E] [A]."""
        n = distances.shape[0]
        step = block_size(distances, 4 * self.num_features, self.limits)
        values = distances.new_empty([n, self.num_features])
        slopes = distances.new_empty([n, self.num_features])
        for start in range(0, n, step):
            end = min(n, start + step)
            t = distances[start:end] * self.inverse_spacing
            cell = t.to(torch.int64).clamp(0, self.last)
            x = (t - cell).unsqueeze(1)
            c = self.table.index_select(0, cell)
            value = torch.addcmul(c[:, 2], x, c[:, 3])
            value = torch.addcmul(c[:, 1], x, value)
            torch.addcmul(c[:, 0], x, value, out=values[start:end])
            slope = torch.addcmul(c[:, 2], x, c[:, 3], value=1.5)
            slope = torch.addcmul(c[:, 1], x, slope, value=2.0)
            torch.mul(slope, self.inverse_spacing, out=slopes[start:end])
        return values, slopes


def tabulate(
    exact: ExactRadial,
    widths: Sequence[int],
    outputs: Sequence[torch.Tensor],
    *,
    dtype: torch.dtype,
    points: int = 2048,
    tolerance: float = 1e-7,
) -> Tuple[TabulatedRadial, List[torch.Tensor]]:
    """Replaces MLP features by a table of fewer, equivalent ones.

    For each layer the functions of r that matter are phi(r) @ V. Their singular value decomposition
    over the grid gives the shortest basis that spans them to `tolerance` of the largest.

    Args:
        exact: the features to tabulate, float64.
        widths: number of features of each interaction layer.
        outputs: for each layer the linear map V of shape [width, outputs], float64.
        dtype: dtype of the table.
        points: number of grid points; 2048 keep the interpolation error under 1e-6 of the largest
            feature, the rounding error of single precision.
        tolerance: singular values below this fraction of the largest are dropped.

    Returns:
        The table and, for each layer, the map V' of shape [reduced width, outputs] (float64).
    """
    cutoff = exact.basis.cutoff
    grid = torch.linspace(0.0, cutoff, points, dtype=torch.float64)
    grid[0] = 1e-5 * cutoff  # sin(w r) / r is smooth at 0 but not computable there
    values, slopes = exact(grid)
    values[-1], slopes[-1] = 0.0, 0.0
    bases, maps = [], []
    for value, slope, output in zip(
        values.split(list(widths), 1), slopes.split(list(widths), 1), outputs, strict=True
    ):
        orthonormal, triangular = torch.linalg.qr(output.T)
        _, singular, right = torch.linalg.svd(value @ triangular.T, full_matrices=False)
        rank = max(1, int((singular > tolerance * singular[0]).sum()))
        projection = triangular.T @ right[:rank].T
        bases.append((value @ projection, slope @ projection))
        maps.append(right[:rank] @ orthonormal.T)
    table = TabulatedRadial(
        torch.cat([value for value, _ in bases], 1),
        torch.cat([slope for _, slope in bases], 1),
        cutoff,
        dtype,
    )
    return table, maps


def layer_state(state: Mapping[str, torch.Tensor], layer: int) -> Dict[str, torch.Tensor]:
    """Canonical weights of a layer, names without the ``layers.T.`` prefix."""
    prefix = f"layers.{layer}."
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


def hidden_radial(layer: Mapping[str, torch.Tensor]) -> List[torch.Tensor]:
    """Weights of a layer's radial MLP but for the last."""
    names = sorted((n for n in layer if n.startswith("radial.")), key=lambda n: int(n[7:]))
    return [layer[name] for name in names[:-1]]


def last_radial(layer: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The last weights of a layer's radial MLP."""
    count = len(hidden_radial(layer))
    return layer[f"radial.{count}"]


def radial_features(
    hyper: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    layers: Sequence[Mapping[str, torch.Tensor]],
    outputs: List[torch.Tensor],
    dtype: torch.dtype,
    exact: bool,
) -> Tuple[nn.Module, List[torch.Tensor]]:
    """The radial module, and the maps from its features to the outputs of each layer.

    Args:
        hyper: canonical hyper-parameters.
        state: canonical weights.
        layers: weights of each layer.
        outputs: for each layer what takes its hidden features, shape [width, outputs].
        dtype: dtype of a table.
        exact: keep the MLP instead of its table.
    """
    basis = BesselBasis(
        state["bessel_frequencies"],
        float(hyper["bessel_prefactor"]),
        float(hyper["cutoff"]),
        int(hyper["cutoff_order"]),
    )
    mlp = ExactRadial(basis, [hidden_radial(layer) for layer in layers])
    if exact:
        return mlp, outputs
    return tabulate(mlp, [output.shape[0] for output in outputs], outputs, dtype=dtype)
