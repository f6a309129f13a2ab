"""Gated networks: one dense network times the sigmoid of another, with their derivative.

The first map of both acts on several inputs side by side. Whoever has them makes its result, from
atoms, pairs and triples by themselves, which is much less arithmetic than a map of all of them for
every triple.
"""

from typing import Any, List, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.dense import Dense, dense_layer
from openmm_les.networks.blocks.weights import State, strip_prefix


class Normalization(nn.Module):
    """Layer normalisation over the last dimension, or nothing if the state has no ``weight``."""

    def __init__(self, state: State, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.active = "weight" in state
        self.epsilon = epsilon
        self.weight = nn.Buffer(state.get("weight", torch.ones(0)))
        self.bias = nn.Buffer(state.get("bias", torch.zeros(0)))

    def _scaled(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        """Values with mean 0 and variance 1, and what they were multiplied with."""
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + self.epsilon)
        return centred * scale, scale

    def forward(self, x: Tensor) -> Tensor:
        """From [..., n] to [..., n]."""
        if not self.active:
            return x
        return self._scaled(x)[0] * self.weight + self.bias

    @torch.jit.export
    def backward(self, grad: Tensor, x: Tensor) -> Tensor:
        """From dE/d(output) and the input to dE/d(input)."""
        if not self.active:
            return grad
        scaled, scale = self._scaled(x)
        grad = grad * self.weight
        along = scaled * (grad * scaled).mean(-1, keepdim=True)
        return (grad - grad.mean(-1, keepdim=True) - along) * scale


class _Step(nn.Module):
    """Normalisation, silu, and the next map."""

    def __init__(self, norm: Normalization, layer: Dense) -> None:
        super().__init__()
        self.norm = norm
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        out: Tensor = self.layer(y * torch.sigmoid(y))
        return out

    @torch.jit.export
    def backward(self, grad: Tensor, x: Tensor) -> Tensor:
        y = self.norm(x)
        s = torch.sigmoid(y)
        inner = self.layer.backward(grad) * (s * (1.0 + y * (1.0 - s)))
        return self.norm.backward(inner, x)


class _Branch(nn.Module):
    """All of one network but its first map and last activation."""

    def __init__(self, state: State) -> None:
        super().__init__()
        layers = sorted({int(name.split(".")[0]) for name in state})
        norms = [Normalization(strip_prefix(state, f"{k}.norm.")) for k in layers]
        steps = [_Step(norms[k - 1], dense_layer(state, str(k))) for k in layers[1:]]
        self.steps = nn.ModuleList(steps)
        # TorchScript cannot iterate a ModuleList backwards; these are the same modules.
        self.reversed: Any = nn.ModuleList(steps[::-1])
        self.norm = norms[-1]

    def forward(self, x: Tensor) -> Tuple[Tensor, List[Tensor]]:
        """The result, and the inputs of all steps and of the last normalisation."""
        inputs: List[Tensor] = [x]
        for step in self.steps:
            x = step(x)
            inputs.append(x)
        return self.norm(x), inputs

    @torch.jit.export
    def backward(self, grad: Tensor, inputs: List[Tensor]) -> Tensor:
        grad = self.norm.backward(grad, inputs[-1])
        last = len(inputs) - 2
        for k, step in enumerate(self.reversed):
            grad = step.backward(grad, inputs[last - k])
        return grad


class GatedNetwork(nn.Module):
    """silu(value network) * sigmoid(gate network), without the first map of both.

    Args:
        state: ``value.K.weight``, ``value.K.bias``, ``value.K.norm.weight`` and so on, and the same
            for ``gate``; the maps with K = 0 are not used.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self.value = _Branch(strip_prefix(state, "value."))
        self.gate = _Branch(strip_prefix(state, "gate."))

    def forward(self, x: Tensor) -> Tensor:
        """From [..., 2 H], results of the first maps of value and gate, to [..., out]."""
        halves = x.chunk(2, -1)
        value, _ = self.value(halves[0])
        gate, _ = self.gate(halves[1])
        result: Tensor = value * torch.sigmoid(value) * torch.sigmoid(gate)
        return result

    @torch.jit.export
    def backward(self, grad: Tensor, x: Tensor) -> Tuple[Tensor, Tensor]:
        """From dE/d(output) [..., out] and the input to the output again and dE/d(input)."""
        halves = x.chunk(2, -1)
        value, value_inputs = self.value(halves[0])
        gate, gate_inputs = self.gate(halves[1])
        s, g = torch.sigmoid(value), torch.sigmoid(gate)
        result = value * s * g
        by_value = self.value.backward(grad * g * (s * (1.0 + value * (1.0 - s))), value_inputs)
        by_gate = self.gate.backward(grad * result * (1.0 - g), gate_inputs)
        return result, torch.cat([by_value, by_gate], -1)


def first_map(state: State, start: int, size: int, bias: bool) -> Dense:
    """The first maps of value and gate side by side, for inputs from `start` on."""
    weights = [state[f"{branch}.0.weight"][start : start + size] for branch in ("value", "gate")]
    biases = [state[f"{branch}.0.bias"] for branch in ("value", "gate")] if bias else []
    return Dense(torch.cat(weights, 1), torch.cat(biases) if biases else None)
