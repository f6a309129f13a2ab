"""Radial features of a pair distance: Bessel functions through an MLP, exact or tabulated.

A layer of MACE or NequIP multiplies its tensor-product paths with ``MLP(bessel(r))``. The MLP's
last, linear layer commutes with everything that follows, so only the hidden features phi(r) and
their derivative are computed per pair. They are smooth functions of one variable and of low
numerical rank: in single precision a cubic Hermite table of a compressed basis replaces the MLP.
"""

from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.blocking import block_limits, block_size
from openmm_les.networks.blocks.weights import State
from openmm_les.networks.form import Form
from openmm_les.networks.kernels import Kernels


def polynomial_envelope(x: Tensor, order: int) -> Tuple[Tensor, Tensor]:
    """Polynomial 1 - O(x^order) that falls to zero from x = 1 on, and its derivative.

    Gasteiger et al., ICLR 2020, eq. 8.
    """
    p = float(order)
    a, b, c = 0.5 * (p + 1.0) * (p + 2.0), p * (p + 2.0), 0.5 * p * (p + 1.0)
    lower = x ** (order - 1)
    power = lower * x
    inside = (x < 1.0).to(x.dtype)
    envelope = (1.0 - a * power + b * power * x - c * power * x * x) * inside
    slope = lower * ((b * (p + 1.0) - c * (p + 2.0) * x) * x - a * p) * inside
    return envelope, slope


class BesselBasis(nn.Module):
    """prefactor * sin(w_n r) / r times the polynomial envelope of MACE, with d/dr.

    Batatia et al., NeurIPS 35, 11423 (2022). Frequencies w_n [n] are in 1/A; the prefactor is
    usually sqrt(2 / cutoff).
    """

    def __init__(self, frequencies: Tensor, prefactor: float, cutoff: float, order: int) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(frequencies)
        self.prefactor = prefactor
        self.cutoff = cutoff
        self.order = order

    def forward(self, distances: Tensor, pairs: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Values and derivatives [1/A] of distances [E], each of shape [E, n], for all pairs."""
        r = distances.unsqueeze(1)
        envelope, slope = polynomial_envelope(r / self.cutoff, self.order)
        bessel, bessel_slope = self.bessel(r)
        return bessel * envelope, bessel_slope * envelope + bessel * slope / self.cutoff

    def bessel(self, r: Tensor) -> Tuple[Tensor, Tensor]:
        """The functions without envelope and their derivatives, [E, n] of r [E, 1]."""
        values = self.prefactor * torch.sin(self.frequencies * r) / r
        slopes = (self.prefactor * self.frequencies * torch.cos(self.frequencies * r) - values) / r
        return values, slopes

    def functions(self) -> Tuple[List[int], Tensor]:
        """For each function of the distance one pair of species, and the function of each pair.

        The latter has the shape [Z * Z], or [1] if all have the same.
        """
        return [0], torch.zeros(1, dtype=torch.int64)


def bessel_basis(hyper: Mapping[str, Any], frequencies: Tensor) -> BesselBasis:
    """The basis with the prefactor and the envelope of canonical hyper-parameters."""
    return BesselBasis(
        frequencies,
        float(hyper["bessel_prefactor"]),
        float(hyper["cutoff"]),
        int(hyper["cutoff_order"]),
    )


class _SiluLayer(nn.Module):
    """One MLP layer with forward-mode derivative."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight)

    def forward(self, x: Tensor, dx: Tensor) -> Tuple[Tensor, Tensor]:
        z = x @ self.weight
        s = torch.sigmoid(z)
        return z * s, (dx @ self.weight) * (s * (1.0 + z * (1.0 - s)))


class _HiddenLayers(nn.Module):
    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_SiluLayer(weight) for weight in weights)

    def forward(self, x: Tensor, dx: Tensor) -> Tuple[Tensor, Tensor]:
        for layer in self.layers:
            x, dx = layer(x, dx)
        return x, dx


class _Density(nn.Module):
    """tanh((f w)^2) of basis functions f, w of shape [n, 1], with forward-mode derivative."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight)

    def forward(self, x: Tensor, dx: Tensor) -> Tuple[Tensor, Tensor]:
        z = x @ self.weight
        density = torch.tanh(z * z)
        return density, 2.0 * z * (dx @ self.weight) * (1.0 - density * density)


class ExactRadial(nn.Module):
    """Hidden MLP features of all interaction layers, side by side, from the network itself.

    Args:
        basis: the radial basis shared by the layers, `BesselBasis` or `TransformedBasis`.
        hidden_weights: for each interaction layer the hidden weight matrices [h_in, h_out].
        density_weights: for each layer the weights [n, 1] of its density, which follows its
            features, or None.
    """

    def __init__(
        self,
        basis: Any,
        hidden_weights: Sequence[Sequence[Tensor]],
        density_weights: Sequence[Optional[Tensor]] = (),
    ) -> None:
        super().__init__()
        self.basis: Any = basis
        mlps: List[nn.Module] = []
        for layer, weights in enumerate(hidden_weights):
            mlps.append(_HiddenLayers(weights))
            density = density_weights[layer] if layer < len(density_weights) else None
            if density is not None:
                mlps.append(_Density(density))
        self.mlps = nn.ModuleList(mlps)

    def forward(self, distances: Tensor, pairs: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Features and their derivatives, each of shape [E, P], of distances [E] [A].

        `pairs` says which pair of species each is, first * Z + second; None if that does not
        matter.
        """
        x, dx = self.basis(distances, pairs)
        values: List[Tensor] = []
        slopes: List[Tensor] = []
        for mlp in self.mlps:
            value, slope = mlp(x, dx)
            values.append(value)
            slopes.append(slope)
        return torch.cat(values, 1), torch.cat(slopes, 1)


class TabulatedRadial(nn.Module):
    """Cubic Hermite tables of radial features on a uniform grid from 0 to the cutoff [A].

    Values and slopes [F, G, P] are float64, one table for each function of the distance. A pair of
    species has the table `table_of_pair` [Z * Z], which is read where F > 1.
    """

    def __init__(
        self,
        values: Tensor,
        slopes: Tensor,
        cutoff: float,
        table_of_pair: Tensor,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        tables, points, self.num_features = values.shape
        self.limits = block_limits()
        spacing = cutoff / (points - 1)
        self.inverse_spacing = 1.0 / spacing
        self.last = points - 1
        self.by_pair = tables > 1
        f0, f1 = values[:, :-1], values[:, 1:]
        d0, d1 = slopes[:, :-1] * spacing, slopes[:, 1:] * spacing
        cubic = torch.stack([f0, d0, 3 * (f1 - f0) - 2 * d0 - d1, 2 * (f0 - f1) + d0 + d1], 2)
        outside = torch.zeros(tables, 1, 4, self.num_features, dtype=values.dtype)
        self.table = nn.Buffer(torch.cat([cubic, outside], 1).flatten(0, 1).to(dtype))
        self.first_row = nn.Buffer(table_of_pair * points)

    def forward(self, distances: Tensor, pairs: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """See `ExactRadial.forward`."""
        n = distances.shape[0]
        step = block_size(distances, 4 * self.num_features, self.limits)
        values = distances.new_empty([n, self.num_features])
        slopes = distances.new_empty([n, self.num_features])
        for start in range(0, n, step):
            end = min(n, start + step)
            t = distances[start:end] * self.inverse_spacing
            row = t.to(torch.int64).clamp(0, self.last)
            x = (t - row).unsqueeze(1)
            if self.by_pair and pairs is not None:
                row = row + self.first_row.index_select(0, pairs[start:end])
            c = self.table.index_select(0, row)
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
    outputs: Sequence[Optional[Tensor]],
    *,
    dtype: torch.dtype,
    points: int = 2048,
    tolerance: float = 1e-8,
    kernels: Kernels = "torch",
) -> Tuple[TabulatedRadial, List[Tensor]]:
    """Replaces MLP features by a table of fewer, equivalent ones.

    For each layer the functions of r that matter are phi(r) @ V. Their singular value decomposition
    over the grid gives the shortest basis that spans them to `tolerance` of the largest.

    Args:
        exact: the features to tabulate, float64.
        widths: number of features of each interaction layer, and of each density.
        outputs: for each of them the linear map V of shape [width, outputs], float64; None for
            features that are tabulated as they are.
        points: number of grid points; 2048 keep the interpolation error under 1e-6 of the largest
            feature, the rounding error of single precision.
        tolerance: of singular values; 1e-7 costs more in forces than rounding, 1e-9 gains nothing.
        kernels: what reads the table; Triton's kernels do it in `pair_geometry`.

    Returns:
        The table and, for each V, the map V' of shape [reduced width, outputs] (float64).
    """
    cutoff = exact.basis.cutoff
    pairs, table_of_pair = exact.basis.functions()
    grid = torch.linspace(0.0, cutoff, points, dtype=torch.float64)
    grid[0] = 1e-5 * cutoff  # sin(w r) / r is smooth at 0 but not computable there
    every = [exact(grid, torch.full([points], pair, dtype=torch.int64)) for pair in pairs]
    values, slopes = (torch.stack([one[k] for one in every]) for k in (0, 1))
    values[:, -1], slopes[:, -1] = 0.0, 0.0
    bases, maps = [], []
    for value, slope, output in zip(
        torch.split(values, list(widths), 2),
        torch.split(slopes, list(widths), 2),
        outputs,
        strict=True,
    ):
        if output is None:
            bases.append((value, slope))
            continue
        orthonormal, triangular = torch.linalg.qr(output.T)
        functions = (value @ triangular.T).flatten(0, 1)
        _, singular, right = torch.linalg.svd(functions, full_matrices=False)
        rank = max(1, int((singular > tolerance * singular[0]).sum()))
        projection = triangular.T @ right[:rank].T
        bases.append((value @ projection, slope @ projection))
        maps.append(right[:rank] @ orthonormal.T)
    kind = TabulatedRadial
    if kernels == "numba":
        from openmm_les.networks.kernels.numba.radial import LoopRadial

        kind = LoopRadial
    table = kind(
        torch.cat([value for value, _ in bases], 2),
        torch.cat([slope for _, slope in bases], 2),
        cutoff,
        table_of_pair,
        dtype,
    )
    return table, maps


class AgnesiTransform(nn.Module):
    """1 / (1 + a u^q / (1 + u^(q - p))) of u = r / r0, r0 the mean of the covalent radii.

    Witt et al., J. Chem. Phys. 159, 164101 (2023).
    """

    def __init__(self, a: float, q: float, p: float) -> None:
        super().__init__()
        self.a, self.q, self.p = a, q, p

    def forward(self, r: Tensor, radii: Tensor) -> Tuple[Tensor, Tensor]:
        """t and dt/dr of distances and sums of covalent radii, all of one shape."""
        length = 0.5 * radii
        u = r / length
        # u^q / (1 + u^(q - p)) in a form that does not overflow for small u.
        share = 1.0 / (1.0 + u ** (self.p - self.q))
        s = u**self.p * share
        t = 1.0 / (1.0 + self.a * s)
        slope = s / u * (self.q + (self.p - self.q) * share)
        return t, -t * t * self.a * slope / length


class SoftTransform(nn.Module):
    """p0 + (r - p0) (1 + tanh(c (r - m))) / 2: r beyond the bond, constant within.

    p0 = 3/4 r0, p1 = 4/3 r0, m their mean, c = alpha / (p1 - p0), r0 the sum of the covalent radii;
    the definition is mace-torch's.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, r: Tensor, radii: Tensor) -> Tuple[Tensor, Tensor]:
        """See `AgnesiTransform.forward`."""
        low, high = 0.75 * radii, 4.0 / 3.0 * radii
        steepness = self.alpha / (high - low)
        tanh = torch.tanh(steepness * (r - 0.5 * (low + high)))
        step = 0.5 * (1.0 + tanh)
        slope = 0.5 * steepness * (1.0 - tanh * tanh)
        return low + (r - low) * step, step + (r - low) * slope


class TransformedBasis(nn.Module):
    """Bessel functions of a distance transformed with covalent radii [Z] [A], and the envelope."""

    def __init__(
        self, basis: BesselBasis, transform: Mapping[str, Union[str, float]], radii: Tensor
    ) -> None:
        super().__init__()
        self.basis = basis
        self.cutoff = basis.cutoff
        parameters = {name: float(value) for name, value in transform.items() if name != "kind"}
        kinds = {"agnesi": AgnesiTransform, "soft": SoftTransform}
        self.transform = kinds[str(transform["kind"])](**parameters)
        self.radii = nn.Buffer((radii.unsqueeze(1) + radii).flatten())

    def forward(self, distances: Tensor, pairs: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """See `ExactRadial.forward`."""
        assert pairs is not None
        r = distances.unsqueeze(1)
        t, dt = self.transform(r, self.radii.index_select(0, pairs).unsqueeze(1))
        bessel, slope = self.basis.bessel(t)
        envelope, steepness = polynomial_envelope(r / self.cutoff, self.basis.order)
        return bessel * envelope, slope * dt * envelope + bessel * steepness / self.cutoff

    def functions(self) -> Tuple[List[int], Tensor]:
        """See `BesselBasis.functions`: pairs with the same sum of radii share theirs."""
        radii = self.radii.tolist()
        distinct = sorted(set(radii))
        functions = [distinct.index(radius) for radius in radii]
        return [radii.index(radius) for radius in distinct], torch.tensor(functions)


#: Tables of more functions of the distance than this (84 MB with 40 features) are not made.
_MOST_TABLES = 64


def hidden_radial(layer: State) -> List[Tensor]:
    """Weights of a layer's radial MLP but for the last."""
    names = sorted((n for n in layer if n.startswith("radial.")), key=lambda n: int(n[7:]))
    return [layer[name] for name in names[:-1]]


def last_radial(layer: State) -> Tensor:
    """The last weights of a layer's radial MLP."""
    count = len(hidden_radial(layer))
    return layer[f"radial.{count}"]


def radial_features(
    hyper: Mapping[str, Any],
    state: State,
    layers: Sequence[State],
    outputs: List[Tensor],
    form: Form,
) -> Tuple[nn.Module, List[Tensor]]:
    """The radial module, and the maps from its features to the outputs of each layer.

    Args:
        layers: weights of each layer; the density of a layer that has one follows its features.
        outputs: for each layer what takes its hidden features, shape [width, outputs].
    """
    bessel = bessel_basis(hyper, state["bessel_frequencies"])
    basis: nn.Module = bessel
    if "distance_transform" in hyper:
        basis = TransformedBasis(bessel, hyper["distance_transform"], state["transform.radii"])
    densities = [layer.get("density") for layer in layers]
    mlp = ExactRadial(basis, [hidden_radial(layer) for layer in layers], densities)
    if form.exact_radial or len(mlp.basis.functions()[0]) > _MOST_TABLES:
        return mlp, outputs
    widths: List[int] = []
    maps: List[Optional[Tensor]] = []
    for output, density in zip(outputs, densities, strict=True):
        widths += [output.shape[0]] if density is None else [output.shape[0], 1]
        maps += [output] if density is None else [output, None]
    return tabulate(mlp, widths, maps, dtype=form.dtype, kernels=form.kernels)
