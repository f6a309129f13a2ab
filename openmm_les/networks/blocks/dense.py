"""Dense networks, with their derivative."""

from typing import Any, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.weights import State, strip_prefix


class Dense(nn.Module):
    """A linear map, with a weight [in, out], and a bias [out] or none."""

    def __init__(self, weight: Tensor, bias: Optional[Tensor] = None) -> None:
        super().__init__()
        self.has_bias = bias is not None
        self.weight = nn.Buffer(weight)
        self.bias = nn.Buffer(weight.new_zeros(weight.shape[1]) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        """From [..., in] to [..., out]."""
        # Not addmm: in frozen modules torch 2.9 then mixes up shapes of other operations.
        y = torch.matmul(x, self.weight)
        return y + self.bias if self.has_bias else y

    @torch.jit.export
    def backward(self, grad: Tensor) -> Tensor:
        """From dE/d(output) [..., out] to dE/d(input) [..., in]."""
        return torch.matmul(grad, self.weight.t())


class DenseNetwork(nn.Module):
    """Linear maps with silu between them, and a linear map beside them if there is one.

    The state has ``0.weight``, ``0.bias``, ``1.weight``, ... and ``linear.weight``,
    ``linear.bias``; biases may be missing.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        names = [name.partition(".")[0] for name in state if name.endswith(".weight")]
        layers = [dense_layer(state, k) for k in names if k != "linear"]
        self.first: Any = layers[0]
        self.others = nn.ModuleList(layers[1:])
        self.reversed: Any = nn.ModuleList(layers[:0:-1])
        self.beside: Any = nn.ModuleList(dense_layer(state, k) for k in names if k == "linear")

    def forward(self, x: Tensor) -> Tuple[Tensor, List[Tensor]]:
        """From [..., in] to [..., out], and the slopes of all silu."""
        y = self.first(x)
        slopes: List[Tensor] = []
        for layer in self.others:
            s = torch.sigmoid(y)
            slopes.append(s * (1.0 + y * (1.0 - s)))
            y = layer(y * s)
        for linear in self.beside:
            y = y + linear(x)
        return y, slopes

    @torch.jit.export
    def backward(self, grad: Tensor, slopes: List[Tensor]) -> Tensor:
        """From dE/d(output) to dE/d(input)."""
        inner = grad
        last = len(slopes) - 1
        for k, layer in enumerate(self.reversed):
            inner = layer.backward(inner) * slopes[last - k]
        result: Tensor = self.first.backward(inner)
        for linear in self.beside:
            result = result + linear.backward(grad)
        return result


class HeadsTape(NamedTuple):
    """Slopes of the networks of `EnergyAndCharge`."""

    energy: List[Tensor]
    charge: List[Tensor]


class EnergyAndCharge(nn.Module):
    """Dense networks ``energy.`` and ``charge.`` from features to energy and latent charges."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.energy = DenseNetwork(strip_prefix(state, "energy."))
        self.charge = DenseNetwork(strip_prefix(state, "charge."))

    def forward(self, features: Tensor) -> Tuple[Tensor, Tensor, HeadsTape]:
        """Energies [...] and charges of features [..., in].

        The charges are [...], or [channels, ...] if their network has several outputs.
        """
        energies, energy_slopes = self.energy(features)
        charges, charge_slopes = self.charge(features)
        charges = charges.movedim(-1, 0).contiguous().squeeze(0)
        return energies.squeeze(-1), charges, HeadsTape(energy_slopes, charge_slopes)

    @torch.jit.export
    def backward(self, grad_energies: Tensor, grad_charges: Tensor, tape: HeadsTape) -> Tensor:
        """From dE/d(energies) and dE/d(charges) to dE/d(features)."""
        grad = self.energy.backward(grad_energies.unsqueeze(-1), tape.energy)
        grad_charges = grad_charges.to(grad.dtype)
        if grad_charges.dim() == grad_energies.dim():
            grad_charges = grad_charges.unsqueeze(0)
        by_charge = self.charge.backward(grad_charges.movedim(0, -1), tape.charge)
        result: Tensor = grad + by_charge
        return result


def dense_layer(state: State, name: str) -> Dense:
    """The linear map with some name; it may have no bias."""
    return Dense(state[f"{name}.weight"], state.get(f"{name}.bias"))
