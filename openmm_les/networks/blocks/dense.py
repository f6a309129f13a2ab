"""Dense networks, with their derivative."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from torch import nn


class Dense(nn.Module):
    """A linear map, with or without a bias.

    Args:
        weight: shape [in, out].
        bias: shape [out].
    """

    def __init__(self, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> None:
        super().__init__()
        self.has_bias = bias is not None
        self.weight: torch.Tensor
        self.bias: torch.Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("bias", weight.new_zeros(weight.shape[1]) if bias is None else bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [..., in] to [..., out]."""
        # Not addmm: in frozen modules torch 2.9 then mixes up shapes of other operations.
        y = torch.matmul(x, self.weight)
        return y + self.bias if self.has_bias else y

    @torch.jit.export
    def backward(self, grad: torch.Tensor) -> torch.Tensor:
        """From dE/d(output) [..., out] to dE/d(input) [..., in]."""
        return torch.matmul(grad, self.weight.t())


class DenseNetwork(nn.Module):
    """Linear maps with silu between them, and a linear map beside them if there is one.

    Args:
        state: ``0.weight``, ``0.bias``, ``1.weight``, ... and ``linear.weight``, ``linear.bias``;
            biases may be missing.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        names = [name.partition(".")[0] for name in state if name.endswith(".weight")]
        layers = [_layer(state, k) for k in names if k != "linear"]
        self.first: Any = layers[0]
        self.others = nn.ModuleList(layers[1:])
        # TorchScript cannot iterate a ModuleList backwards; these are the same modules.
        self.reversed: Any = nn.ModuleList(layers[:0:-1])
        self.beside: Any = nn.ModuleList(_layer(state, k) for k in names if k == "linear")

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """From [N, in] to [N, out], and what `backward` needs."""
        y = self.first(x)
        saved: List[torch.Tensor] = []
        for layer in self.others:
            s = torch.sigmoid(y)
            saved.append(s * (1.0 + y * (1.0 - s)))
            y = layer(y * s)
        for linear in self.beside:
            y = y + linear(x)
        return y, saved

    @torch.jit.export
    def backward(self, grad: torch.Tensor, saved: List[torch.Tensor]) -> torch.Tensor:
        """From dE/d(output) [N, out] to dE/d(input) [N, in]."""
        inner = grad
        last = len(saved) - 1
        for k, layer in enumerate(self.reversed):
            inner = layer.backward(inner) * saved[last - k]
        result: torch.Tensor = self.first.backward(inner)
        for linear in self.beside:
            result = result + linear.backward(grad)
        return result


def _layer(state: Mapping[str, torch.Tensor], name: str) -> Dense:
    return Dense(state[f"{name}.weight"], state.get(f"{name}.bias"))


def strip_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> Dict[str, torch.Tensor]:
    """The part of a state whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}
