"""Readouts of a MACE layer for latent moments beyond the charge, before they are final.

Formulas: arXiv 2605.05746 (Cheng and co-workers, 2026), and ``docs/reference/formats/mace.md``.
"""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.multipoles import LatentLayout
from openmm_les.networks.blocks.dense import DenseNetwork
from openmm_les.networks.blocks.tensors import (
    FinalLatents,
    RowMap,
    dyadic_sum,
    dyadic_sum_backward,
    symmetric_rows,
)
from openmm_les.networks.blocks.weights import State, strip_prefix
from openmm_les.networks.moments import layout_of


class ScalarReadout(nn.Module):
    """A network with one hidden layer from scalars to one number, which enters some rows.

    `rows` are the multiples that enter each, shape [rows].
    """

    def __init__(self, maps: Sequence[Tensor], rows: Tensor) -> None:
        super().__init__()
        self.network = DenseNetwork({f"{k}.weight": weight for k, weight in enumerate(maps)})
        self.rows = nn.Buffer(rows.unsqueeze(1))

    def forward(self, scalars: Tensor) -> Tuple[Tensor, List[Tensor]]:
        """From [N, C] to rows [rows, N], and the slopes of silu."""
        values, slopes = self.network(scalars)
        return self.rows @ values.t(), slopes

    @torch.jit.export
    def backward(self, grad: Tensor, slopes: List[Tensor]) -> Tensor:
        """From dE/d(rows) to dE/d(scalars)."""
        result: Tensor = self.network.backward(grad.t() @ self.rows, slopes)
        return result


class DyadTape(NamedTuple):
    """Vectors [3, N, V], their factors as the network gives them, and its slopes."""

    vectors: Tensor
    factors: Tensor
    slopes: List[Tensor]


class Dyads(nn.Module):
    """A tensor from outer products of vectors, with factors that a network makes of scalars.

    The factors are one for each vector, their squares, or a symmetric matrix: `kind` is
    ``"factors"``, ``"squares"`` or ``"matrix"``. The tensor enters the rows from `first` on.
    """

    def __init__(self, kind: str, state: State, first: int) -> None:
        super().__init__()
        self.squares, self.matrix = kind == "squares", kind == "matrix"
        self.first = first
        self.mixing = nn.Buffer(state["vectors"])
        self.network = DenseNetwork(strip_prefix(state, "factors."))

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tuple[Tensor, DyadTape]:
        """From scalars [N, C] and vectors [3, N, C] to rows [9, N]."""
        own = vectors @ self.mixing
        factors, slopes = self.network(scalars)
        return dyadic_sum(own, self._shaped(factors)), DyadTape(own, factors, slopes)

    @torch.jit.export
    def backward(self, grad: Tensor, tape: DyadTape) -> Tuple[Tensor, Tensor]:
        """From dE/d(rows), symmetric, to dE/d(scalars) and dE/d(vectors)."""
        grad_own, grad_factors = dyadic_sum_backward(grad, tape.vectors, self._shaped(tape.factors))
        grad_factors = grad_factors.flatten(1)
        if self.squares:
            grad_factors = 2.0 * grad_factors * tape.factors
        scalars: Tensor = self.network.backward(grad_factors, tape.slopes)
        return scalars, grad_own @ self.mixing.t()

    def _shaped(self, factors: Tensor) -> Tensor:
        if self.matrix:
            width = self.mixing.shape[1]
            return factors.view(-1, width, width)
        return factors * factors if self.squares else factors


class MomentTape(NamedTuple):
    """What `LayerMoments.backward` needs, of its scalar readouts and of its dyads."""

    scalars: List[List[Tensor]]
    dyads: List[DyadTape]


class LayerMoments(nn.Module):
    """All readouts of one layer beside energy and charge: the rows of latents but the first.

    `state` has the layer's weights without the ``layers.T.`` prefix and the model's bases of
    tensors, `spec` is the layer's entry of the hyper-parameters.
    """

    def __init__(self, spec: Mapping[str, Any], state: State, layout: LatentLayout) -> None:
        super().__init__()
        self.rows = layout.rows - 1
        maps, networks = _linear_and_others(state, layout)
        self.degrees: List[int] = sorted(maps)
        self.maps: Any = nn.ModuleList(RowMap(maps[degree]) for degree in self.degrees)
        self.scalars: Any = nn.ModuleList(networks)
        firsts = {"quadrupole_dyads": layout.quadrupoles, "alpha_dyads": layout.alpha}
        self.dyads: Any = nn.ModuleList(
            Dyads(spec[name], strip_prefix(state, f"{name}."), first - 1)
            for name, first in firsts.items()
            if spec.get(name)
        )

    def forward(self, nodes: List[Tensor]) -> Tuple[Tensor, MomentTape]:
        """From node features of each degree [2l+1, N, C], float64, to [N, rows - 1]."""
        scalars = nodes[0][0]
        rows = scalars.new_zeros([self.rows, scalars.shape[0]])
        for k, linear in enumerate(self.maps):
            rows = rows + linear(nodes[self.degrees[k]])
        slopes: List[List[Tensor]] = []
        for network in self.scalars:
            values, own_slopes = network(scalars)
            rows = rows + values
            slopes.append(own_slopes)
        tapes: List[DyadTape] = []
        for dyads in self.dyads:
            values, tape = dyads(scalars, nodes[1])
            rows[dyads.first : dyads.first + 9] += values
            tapes.append(tape)
        return rows.t(), MomentTape(slopes, tapes)

    @torch.jit.export
    def backward(self, grad: Tensor, nodes: List[Tensor], tape: MomentTape) -> List[Tensor]:
        """Adds to dE/dnodes what follows from dE/d(readouts) [N, rows - 1]."""
        rows = grad.t()
        total = list(nodes)
        for k, linear in enumerate(self.maps):
            degree = self.degrees[k]
            total[degree] = total[degree] + linear.backward(rows)
        for k, network in enumerate(self.scalars):
            total[0] = total[0] + network.backward(rows, tape.scalars[k]).unsqueeze(0)
        for k, dyads in enumerate(self.dyads):
            own = rows[dyads.first : dyads.first + 9]
            grad_scalars, grad_vectors = dyads.backward(own, tape.dyads[k])
            total[0] = total[0] + grad_scalars.unsqueeze(0)
            total[1] = total[1] + grad_vectors
        return total


def _linear_and_others(
    state: State, layout: LatentLayout
) -> Tuple[Dict[int, Tensor], List[ScalarReadout]]:
    """Weights of all linear readouts by degree [2l + 1, C, rows - 1], and the other scalar ones."""
    maps: Dict[int, Tensor] = {}
    networks: List[ScalarReadout] = []

    def enter(degree: int, weight: Tensor, first: int, basis: Tensor) -> None:
        """Adds weights [C, 1] whose components are multiplied with tensors [2l + 1, k]."""
        rows = weight.new_zeros(len(basis), layout.rows - 1)
        rows[:, first - 1 : first - 1 + basis.shape[1]] = basis
        values = weight.view(1, -1, 1) * rows.unsqueeze(1)
        maps[degree] = maps[degree] + values if degree in maps else values

    unit = torch.eye(3, dtype=torch.float64)
    if "dipole" in state:
        enter(1, state["dipole"], layout.dipoles, unit)
    if "quadrupole" in state:
        basis = symmetric_rows(state["quadrupole_basis"])
        enter(2, state["quadrupole"], layout.quadrupoles, basis)
    if "alpha_tensor.0" in state:
        basis = symmetric_rows(state["alpha_basis"])
        enter(0, state["alpha_tensor.0"], layout.alpha, basis[:1])
        enter(2, state["alpha_tensor.2"], layout.alpha, basis[1:])
    one = unit[:1, :1]
    isotropic = one if layout.alpha_rows == 1 else unit.view(1, 9)
    for name, first, pattern in (("kappa", layout.kappa, one), ("alpha", layout.alpha, isotropic)):
        stack = list(strip_prefix(state, f"{name}.").values())
        if len(stack) == 1:
            enter(0, stack[0], first, pattern)
        elif stack:
            rows = one.new_zeros(layout.rows - 1)
            rows[first - 1 : first - 1 + pattern.shape[1]] = pattern[0]
            networks.append(ScalarReadout(stack, rows))
    return maps, networks


def layer_moments(
    hyper: Mapping[str, Any], state: State, layers: Sequence[State]
) -> List[Optional[LayerMoments]]:
    """The readouts of each layer; None for models of charges alone."""
    layout = layout_of(hyper)
    if layout is None:
        return [None] * len(layers)
    bases = {name: tensor for name, tensor in state.items() if name.endswith("_basis")}
    return [
        LayerMoments(spec, {**bases, **layer}, layout)
        for spec, layer in zip(hyper["layers"], layers, strict=True)
    ]


def final_latents(hyper: Mapping[str, Any], state: State) -> List[FinalLatents]:
    """What follows the sum over layers, in a list; an empty one for models of charges alone."""
    layout = layout_of(hyper)
    if layout is None:
        return []
    scales = hyper["moment_scales"]
    parts = [("dipoles", 3), ("quadrupoles", 9), ("kappa", 1), ("alpha", layout.alpha_rows)]
    scale = torch.ones(layout.rows, dtype=torch.float64)
    for name, size in parts:
        first: int = getattr(layout, name)
        if first >= 0:
            scale[first : first + size] = float(scales.get(name, 1.0))
    shifts = torch.zeros(layout.rows, len(state["embedding"]), dtype=torch.float64)
    if "atomic_alpha" in state:
        step = 4 if layout.alpha_rows == 9 else 1
        shifts[layout.alpha :: step] = state["atomic_alpha"]
    squared = hyper.get("squared_moments", [])
    kappa, alpha = ("square" if name in squared else "" for name in ("kappa", "alpha"))
    return [FinalLatents(layout, scale, shifts, kappa, alpha)]
