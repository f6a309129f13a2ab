"""Latent moments of NequIP and Allegro: from readouts of atoms, or of pairs, to rows of latents.

A readout is a scalar, a vector, the product of a vector with itself, or the five components of a
tensor of degree 2. All of an atom are listed in this order, and a matrix makes moments of them.
"""

from typing import Any, List, Mapping, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.angular import degree_offsets
from openmm_les.networks.blocks.dense import Dense
from openmm_les.networks.blocks.tensors import FinalLatents
from openmm_les.networks.blocks.weights import State
from openmm_les.networks.moments import layout_of

#: Kinds of readouts in their order, and the numbers that each one is.
COMPONENTS = {"scalars": 1, "vectors": 3, "squares": 9, "tensors": 5}


def component_counts(readouts: Mapping[str, Any]) -> List[int]:
    """Numbers of each kind that the readouts of a model are."""
    return [int(readouts[kind]) * components for kind, components in COMPONENTS.items()]


class MomentRows(nn.Module):
    """From readouts [F, N] to latents [rows, N] by a matrix [rows, F], all float64.

    If they are to be positive, kappa and isotropic alpha become their softplus, tensors alpha their
    products with themselves.
    """

    def __init__(self, hyper: Mapping[str, Any], matrix: Tensor) -> None:
        super().__init__()
        layout, readouts = layout_of(hyper), hyper["readouts"]
        assert layout is not None
        self.matrix = nn.Buffer(matrix)
        scale = matrix.new_ones(layout.rows)
        if layout.alpha >= 0:
            scale[layout.alpha :] = float(readouts.get("alpha_scale", 1.0))
        if layout.kappa >= 0:
            scale[layout.kappa] = float(readouts.get("kappa_scale", 1.0))
        kappa, alpha = "softplus", "softplus" if layout.alpha_rows == 1 else "square"
        if not readouts["positive"]:
            kappa = alpha = ""
        shifts = matrix.new_zeros(layout.rows, len(hyper["elements"]))
        self.final = FinalLatents(layout, scale, shifts, kappa, alpha)

    def forward(self, readouts: Tensor, species: Tensor) -> Tuple[Tensor, Tensor]:
        """Latents, and what `backward` needs."""
        x = torch.matmul(self.matrix, readouts)
        return self.final(x, species), x

    @torch.jit.export
    def backward(self, grad: Tensor, x: Tensor) -> Tensor:
        """From dE/d(latents) to dE/d(readouts)."""
        return torch.matmul(self.matrix.t(), self.final.backward(grad, x))


class NodeTape(NamedTuple):
    """Vectors [c, 3, N] of `NodeMoments` that are multiplied, and what `MomentRows` needs."""

    vectors: Tensor
    rows: Tensor


class NodeCharges(nn.Module):
    """Charges alone: what the network of charges gives."""

    slots: List[int]  # TorchScript cannot tell from an empty list

    def __init__(self) -> None:
        super().__init__()
        self.slots = []

    def forward(
        self, charges: Tensor, nodes: List[Tensor], species: Tensor
    ) -> Tuple[Tensor, NodeTape]:
        """See `NodeMoments`."""
        return charges, NodeTape(charges, charges)

    @torch.jit.export
    def backward(self, grad: Tensor, tape: NodeTape) -> Tuple[Tensor, List[Tensor]]:
        """See `NodeMoments`."""
        none: List[Tensor] = []
        return grad, none


class NodeMoments(nn.Module):
    """Moments of NequIP: scalars of the last features, the rest of those that enter its layer.

    The state has ``moments.vectors`` and ``moments.tensors``, maps of the features in two slots if
    any of either is read, and ``moments.rows``, the matrix of `MomentRows`.
    """

    def __init__(self, hyper: Mapping[str, Any], state: State) -> None:
        super().__init__()
        readouts = hyper["readouts"]
        self.vectors = int(readouts["vectors"])
        self.vector_slot, self.tensor_slot = readouts["vector_slot"], readouts["tensor_slot"]
        self.sizes: List[int] = component_counts(readouts)
        # Where none are read, none are made of the first slot.
        nothing = torch.zeros(hyper["layers"][-1]["nodes"][0][1], 0, dtype=torch.float64)
        self.to_vectors = Dense(state.get("moments.vectors", nothing))
        self.to_tensors = Dense(state.get("moments.tensors", nothing))
        self.rows = MomentRows(hyper, state["moments.rows"])
        self.reads_vectors = "moments.vectors" in state
        self.reads_tensors = "moments.tensors" in state
        self.slots: List[int] = [self.vector_slot] * self.reads_vectors
        self.slots += [self.tensor_slot] * self.reads_tensors

    def forward(
        self, charges: Tensor, nodes: List[Tensor], species: Tensor
    ) -> Tuple[Tensor, NodeTape]:
        """Latents [rows, N] from scalars [N] or [scalars, N], and features of each slot."""
        vectors = self.to_vectors(nodes[self.vector_slot]).permute(2, 0, 1)
        tensors = self.to_tensors(nodes[self.tensor_slot]).permute(2, 0, 1)
        factors = vectors[self.vectors :]
        squares = factors.unsqueeze(2) * factors.unsqueeze(1)
        readouts = [
            charges.view(self.sizes[0], -1),
            vectors[: self.vectors].flatten(0, 1),
            squares.flatten(0, 2),
            tensors.flatten(0, 1),
        ]
        latents, rows = self.rows(torch.cat(readouts), species)
        return latents, NodeTape(factors, rows)

    @torch.jit.export
    def backward(self, grad: Tensor, tape: NodeTape) -> Tuple[Tensor, List[Tensor]]:
        """From dE/d(latents) to dE/d(scalars), and dE/d(features) of the slots that are read."""
        n = grad.shape[1]
        readouts = torch.split(self.rows.backward(grad, tape.rows), self.sizes)
        scalars, vectors, squares, tensors = readouts
        squares = squares.view(-1, 3, 3, n)
        by_factors = ((squares + squares.transpose(1, 2)) * tape.vectors.unsqueeze(1)).sum(2)
        grads: List[Tensor] = []
        if self.reads_vectors:
            by_vectors = torch.cat([vectors.view(-1, 3, n), by_factors]).permute(1, 2, 0)
            grads.append(self.to_vectors.backward(by_vectors))
        if self.reads_tensors:
            grads.append(self.to_tensors.backward(tensors.view(-1, 5, n).permute(1, 2, 0)))
        return scalars, grads


class EdgeTape(NamedTuple):
    """Factors of pairs in `EdgeMoments` [N, c, K], and what `MomentRows` needs."""

    weights: Tensor
    rows: Tensor


class EdgeCharges(nn.Module):
    """Charges alone: sums over the neighbours of an atom."""

    def forward(
        self, charges: Tensor, harmonics: Tensor, species: Tensor
    ) -> Tuple[Tensor, EdgeTape]:
        """See `EdgeMoments`."""
        return charges.to(torch.float64).sum(1), EdgeTape(charges, charges)

    @torch.jit.export
    def backward(self, grad: Tensor, harmonics: Tensor, tape: EdgeTape) -> Tuple[Tensor, Tensor]:
        """See `EdgeMoments`."""
        n, k = harmonics.shape[0], harmonics.shape[1]
        by_charges = grad.to(harmonics.dtype).view(n, 1).expand(n, k)
        return by_charges, torch.zeros_like(harmonics)


class EdgeMoments(nn.Module):
    """Moments of Allegro: sums over the neighbours of an atom, of factors times harmonics.

    The factors are those of `COMPONENTS` in their order; a square has that of Y_1 with itself.
    """

    def __init__(self, hyper: Mapping[str, Any], state: State) -> None:
        super().__init__()
        offsets = degree_offsets(int(hyper["lmax"]))
        self.first, self.second = offsets[1], offsets[2] if len(offsets) > 2 else 0
        self.degree_2 = 5 if len(offsets) > 2 else 0
        readouts, matrix = hyper["readouts"], state["moments.rows"]
        # Every factor is multiplied with every function; these are the products that count.
        functions = [0, 1, 4, 13, 13 + self.degree_2]
        used: List[int] = []
        factor = 0
        for i, (kind, components) in enumerate(COMPONENTS.items()):
            for _ in range(int(readouts[kind])):
                start = factor * functions[-1] + functions[i]
                used += range(start, start + components)
                factor += 1
        full = matrix.new_zeros(matrix.shape[0], factor * functions[-1])
        full[:, used] = matrix
        self.rows = MomentRows(hyper, full)

    def _functions(self, harmonics: Tensor) -> Tensor:
        """1, Y_1, its products with itself, and Y_2 if there is, [N, K, 18 or 13]."""
        first = harmonics[:, :, self.first : self.first + 3]
        squares = (first.unsqueeze(3) * first.unsqueeze(2)).flatten(2)
        second = harmonics[:, :, self.second : self.second + self.degree_2]
        return torch.cat([torch.ones_like(first[:, :, :1]), first, squares, second], 2)

    def forward(
        self, charges: Tensor, harmonics: Tensor, species: Tensor
    ) -> Tuple[Tensor, EdgeTape]:
        """Latents [rows, N], float64, from factors [c, N, K] and Y [N, K, S]."""
        weights = charges.transpose(0, 1)
        sums = torch.bmm(weights, self._functions(harmonics))
        latents, rows = self.rows(sums.flatten(1).t().to(torch.float64), species)
        return latents, EdgeTape(weights, rows)

    @torch.jit.export
    def backward(self, grad: Tensor, harmonics: Tensor, tape: EdgeTape) -> Tuple[Tensor, Tensor]:
        """From dE/d(latents) to dE/d(factors) and dE/dY."""
        n, c, k = tape.weights.shape
        by_sums = self.rows.backward(grad, tape.rows).to(harmonics.dtype).t().reshape(n, c, -1)
        by_weights = torch.bmm(by_sums, self._functions(harmonics).transpose(1, 2))
        by_functions = torch.bmm(tape.weights.transpose(1, 2), by_sums)
        squares = by_functions[:, :, 4:13].reshape(n, k, 3, 3)
        first = harmonics[:, :, self.first : self.first + 3].unsqueeze(2)
        by_first = ((squares + squares.transpose(2, 3)) * first).sum(3)
        grad_harmonics = torch.zeros_like(harmonics)
        grad_harmonics[:, :, self.first : self.first + 3] = by_functions[:, :, 1:4] + by_first
        end = self.second + self.degree_2
        grad_harmonics[:, :, self.second : end] += by_functions[:, :, 13:]
        return by_weights.transpose(0, 1), grad_harmonics
