"""The parts of CHGNet: radial functions, and messages of bonds and of angles, with derivatives."""

import math
from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.blocking import block_limits, block_size
from openmm_les.networks.blocks.dense import Dense
from openmm_les.networks.blocks.gated import GatedNetwork, first_map
from openmm_les.networks.blocks.geometry import collect
from openmm_les.networks.blocks.weights import State


class Pairs(NamedTuple):
    """What layers know of the slots of the neighbour matrix."""

    basis: Tensor  #: radial functions [N, K, n].
    used: Tensor  #: 1 where a slot holds a neighbour, else 0, [N, K, 1].
    neighbors: Tensor  #: neighbour of each slot [N, K].
    #: the flat slot that holds the same pair seen from the neighbour [N * K].
    reverse: Tensor


class AngleGradients(NamedTuple):
    """dE/d of the inputs of `AngleMessages`."""

    atoms: Tensor
    incoming: Tensor
    outgoing: Tensor
    angles: Tensor
    factors: Tensor


class BondBasis(nn.Module):
    """sqrt(2 / cutoff) sin(w_n r) / r times a polynomial of this value, with d/dr.

    MatGL takes for the argument of its cutoff polynomial the function instead of the distance, so
    that nothing becomes zero at the cutoff.

    Frequencies w_n [n] are in 1/A; `order` is p of the polynomial 1 - O(x^p).
    """

    def __init__(self, frequencies: Tensor, cutoff: float, order: int) -> None:
        super().__init__()
        self.frequencies = nn.Buffer(frequencies)
        self.prefactor = math.sqrt(2.0 / cutoff)
        self.cutoff = cutoff
        self.order = order

    def forward(self, distances: Tensor) -> Tuple[Tensor, Tensor]:
        """Values and derivatives [1/A], each of shape [..., n], for distances of shape [...]."""
        r = distances.to(self.frequencies.dtype).unsqueeze(-1)
        sine = self.prefactor * torch.sin(self.frequencies * r) / r
        slope = (self.prefactor * self.frequencies * torch.cos(self.frequencies * r) - sine) / r
        x, p = sine / self.cutoff, float(self.order)
        a, b, c = 0.5 * (p + 1.0) * (p + 2.0), p * (p + 2.0), 0.5 * p * (p + 1.0)
        lower = x ** (self.order - 1)
        power = lower * x
        envelope = 1.0 - a * power + b * power * x - c * power * x * x
        # x times the derivative of the polynomial
        change = power * ((b * (p + 1.0) - c * (p + 2.0) * x) * x - a * p)
        inside = (x <= 1.0).to(r.dtype)
        return sine * envelope * inside, slope * (envelope + change) * inside


class BondFactors(nn.Module):
    """Products of linear maps of the radial functions, with which messages are multiplied.

    There are none, one or two maps, ``factors.K.weight`` and ``factors.K.bias`` of the state.
    """

    def __init__(self, state: State, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        names = sorted({name.split(".")[1] for name in state if name.startswith("factors.")})
        maps = [
            Dense(
                state[f"factors.{k}.weight"].to(dtype),
                state[f"factors.{k}.bias"].to(dtype) if f"factors.{k}.bias" in state else None,
            )
            for k in names
        ]
        self.maps: Any = nn.ModuleList(maps)
        self.width = width

    def forward(self, basis: Tensor) -> Tensor:
        """From radial functions [..., n] to factors [..., width]."""
        shape = list(basis.shape)
        product = torch.ones(shape[:-1] + [self.width], dtype=basis.dtype, device=basis.device)
        for factor in self.maps:
            product = product * factor(basis)
        return product

    @torch.jit.export
    def backward(self, grad: Tensor, basis: Tensor) -> Tensor:
        """From dE/d(factors) to dE/d(radial functions)."""
        result = torch.zeros_like(basis)
        for i, one in enumerate(self.maps):
            others = grad
            for j, other in enumerate(self.maps):
                if i != j:
                    others = others * other(basis)
            result = result + one.backward(others)
        return result


class PairMessages(nn.Module):
    """What a network makes of a bond and its two atoms, for all slots, or their sum for an atom.

    The state is that of the gated network, ``factors``, and ``output``, a map of the sums. The
    dtype is that of all that is done for pairs; maps of atom features are float64.
    """

    def __init__(
        self, state: State, atoms: int, bonds: int, summed: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        pairs = {name: tensor.to(dtype) for name, tensor in state.items()}
        self.sender = first_map(state, 0, atoms, bias=False)
        self.bond = first_map(pairs, atoms, bonds, bias=False)
        self.receiver = first_map(state, atoms + bonds, atoms, bias=True)
        self.network = GatedNetwork(pairs)
        self.summed = summed
        self.width = atoms if summed else bonds
        self.hidden = self.bond.weight.shape[1]
        self.factors = BondFactors(state, self.width, dtype)
        self.output = Dense(state["output"]) if summed else Dense(torch.zeros(0, 0))
        self.limits = block_limits()

    def _step(self, bonds: Tensor) -> int:
        return block_size(bonds, 2 * bonds.shape[1] * self.hidden, self.limits)

    def _projected(self, atoms: Tensor) -> Tuple[Tensor, Tensor]:
        """Results of the first maps for senders and receivers [N, 2 H]."""
        dtype = self.bond.weight.dtype
        return self.sender(atoms).to(dtype), self.receiver(atoms).to(dtype)

    def _inputs(
        self,
        start: int,
        end: int,
        projected: Tuple[Tensor, Tensor],
        bonds: Tensor,
        neighbors: Tensor,
    ) -> Tensor:
        """Results of the first maps for a block of atoms, [R, K, 2 H]."""
        block = neighbors[start:end]
        sent = projected[0].index_select(0, block.reshape(-1)).view(block.shape + (-1,))
        bonded: Tensor = self.bond(bonds[start:end])
        return sent + projected[1][start:end].unsqueeze(1) + bonded

    def forward(self, atoms: Tensor, bonds: Tensor, pairs: Pairs) -> Tensor:
        """Messages [N, K, B], or their mapped sums [N, A]; atoms [N, A] and sums are float64."""
        n = bonds.shape[0]
        projected = self._projected(atoms)
        parts: List[Tensor] = []
        step = self._step(bonds)
        for start in range(0, n, step):
            end = min(n, start + step)
            messages = self.network(self._inputs(start, end, projected, bonds, pairs.neighbors))
            messages = messages * self.factors(pairs.basis[start:end]) * pairs.used[start:end]
            parts.append(messages.sum(1) if self.summed else messages)
        result = torch.cat(parts)
        if not self.summed:
            return result
        mapped: Tensor = self.output(result.to(torch.float64))
        return mapped

    @torch.jit.export
    def backward(
        self, grad: Tensor, atoms: Tensor, bonds: Tensor, pairs: Pairs
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """From dE/d(result) to dE/d of (atoms, bonds, basis)."""
        n, k = bonds.shape[0], bonds.shape[1]
        projected = self._projected(atoms)
        if self.summed:
            grad = self.output.backward(grad).to(bonds.dtype).unsqueeze(1)
        grad_inputs = torch.empty([n, k, self.hidden], dtype=bonds.dtype, device=bonds.device)
        grad_basis = torch.empty_like(pairs.basis)
        step = self._step(bonds)
        for start in range(0, n, step):
            end = min(n, start + step)
            basis = pairs.basis[start:end]
            inputs = self._inputs(start, end, projected, bonds, pairs.neighbors)
            by_product = grad[start:end] * pairs.used[start:end]
            messages, by_inputs = self.network.backward(by_product * self.factors(basis), inputs)
            grad_basis[start:end] = self.factors.backward(by_product * messages, basis)
            grad_inputs[start:end] = by_inputs
        sent = collect(grad_inputs, pairs.reverse, self.limits)
        grad_atoms = self.sender.backward(sent.to(torch.float64))
        grad_atoms = grad_atoms + self.receiver.backward(grad_inputs.sum(1).to(torch.float64))
        return grad_atoms, self.bond.backward(grad_inputs), grad_basis


class AngleMessages(nn.Module):
    """What a network makes of an angle, its two bonds and its atom, or the sum over incoming bonds.

    The state is that of the gated network, and ``output``, a map of the sums; `sizes` are the
    lengths of atom, bond and angle features. All but the map of atom features has the dtype.
    """

    def __init__(
        self, state: State, sizes: Sequence[int], summed: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        atoms, bonds, angles = sizes
        narrow = {name: tensor.to(dtype) for name, tensor in state.items()}
        self.incoming = first_map(narrow, 0, bonds, bias=False)
        self.angle = first_map(narrow, bonds, angles, bias=False)
        self.centre = first_map(state, bonds + angles, atoms, bias=True)
        self.outgoing = first_map(narrow, bonds + angles + atoms, bonds, bias=False)
        self.network = GatedNetwork(narrow)
        self.summed = summed
        self.hidden = self.angle.weight.shape[1]
        self.output = Dense(narrow["output"] if summed else torch.zeros(0, 0, dtype=dtype))
        self.limits = block_limits()

    def _step(self, angles: Tensor) -> int:
        pairs = angles.shape[1] * angles.shape[2]
        return block_size(angles, 2 * pairs * self.hidden, self.limits)

    def _projected(
        self, atoms: Tensor, incoming: Tensor, outgoing: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Results of the first maps for the bonds that come in, with the atom, and go out."""
        centre = self.centre(atoms).to(incoming.dtype).unsqueeze(1)
        return self.incoming(incoming) + centre, self.outgoing(outgoing)

    def _inputs(
        self, start: int, end: int, projected: Tuple[Tensor, Tensor], angles: Tensor
    ) -> Tensor:
        """Results of the first maps for a block of atoms, [R, T, T, 2 H]."""
        first = projected[0][start:end].unsqueeze(2) + projected[1][start:end].unsqueeze(1)
        result: Tensor = first + self.angle(angles[start:end])
        return result

    def forward(
        self,
        atoms: Tensor,
        incoming: Tensor,
        outgoing: Tensor,
        angles: Tensor,
        factors: Tensor,
        used: Tensor,
    ) -> Tensor:
        """Messages [N, T, T, C], or their mapped sums for the outgoing bonds [N, T, B].

        The bonds that come in are the first index of an angle, those that go out the second. Summed
        messages are multiplied with the factors of both bonds [N, T, B]; `used` is that of
        `Angles.pairs`.
        """
        n = angles.shape[0]
        projected = self._projected(atoms, incoming, outgoing)
        parts: List[Tensor] = []
        step = self._step(angles)
        for start in range(0, n, step):
            end = min(n, start + step)
            messages = self.network(self._inputs(start, end, projected, angles)) * used[start:end]
            if self.summed:
                messages = (messages * factors[start:end].unsqueeze(2)).sum(1)
            parts.append(messages)
        result = torch.cat(parts)
        if not self.summed:
            return result
        mapped: Tensor = self.output(result * factors)
        return mapped

    @torch.jit.export
    def backward(
        self,
        grad: Tensor,
        atoms: Tensor,
        incoming: Tensor,
        outgoing: Tensor,
        angles: Tensor,
        factors: Tensor,
        used: Tensor,
    ) -> AngleGradients:
        """From dE/d(result) to dE/d(inputs)."""
        n = angles.shape[0]
        projected = self._projected(atoms, incoming, outgoing)
        by_factors = torch.zeros_like(factors)
        by_incoming = torch.empty_like(projected[0])
        by_outgoing = torch.empty_like(projected[1])
        by_angles = torch.empty_like(angles)
        if self.summed:
            grad = self.output.backward(grad).unsqueeze(1)
        step = self._step(angles)
        for start in range(0, n, step):
            end = min(n, start + step)
            inputs = self._inputs(start, end, projected, angles)
            by_product = grad[start:end] * used[start:end]
            one, other = factors[start:end].unsqueeze(2), factors[start:end].unsqueeze(1)
            if self.summed:
                by_message = by_product * one * other
            else:
                by_message = by_product
            messages, by_inputs = self.network.backward(by_message, inputs)
            if self.summed:
                bare = messages * by_product
                by_factors[start:end] = (bare * other).sum(2) + (bare * one).sum(1)
            by_incoming[start:end] = by_inputs.sum(2)
            by_outgoing[start:end] = by_inputs.sum(1)
            by_angles[start:end] = self.angle.backward(by_inputs)
        return AngleGradients(
            self.centre.backward(by_incoming.sum(1).to(torch.float64)),
            self.incoming.backward(by_incoming),
            self.outgoing.backward(by_outgoing),
            by_angles,
            by_factors,
        )
