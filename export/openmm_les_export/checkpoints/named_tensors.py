"""Tensors of a file by name, taken one by one so that none is left unread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from openmm_les_export.checkpoints.accepted import unknown
from openmm_les_export.checkpoints.records import invalid, unsupported


class NamedTensors:
    """The tensors of a file that have not been read yet."""

    def __init__(self, found: Mapping[str, Any], kind: str) -> None:
        self._found = {name: as_tensor(name, value) for name, value in found.items()}
        self._kind = kind

    def dtype(self, name: str) -> torch.dtype:
        """Precision of a tensor in the file."""
        return self._stored(name).dtype

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor of this shape in float64; -1 stands for any length."""
        tensor = self.take_any(name)
        fits = len(tensor.shape) == len(shape) and all(
            wanted in (-1, got) for wanted, got in zip(shape, tensor.shape, strict=True)
        )
        if not fits:
            raise invalid(name, f"shape {shape}", tuple(tensor.shape))
        return tensor

    def take_any(self, name: str) -> torch.Tensor:
        """A tensor of any shape in float64."""
        tensor = self._stored(name).to(torch.float64)
        del self._found[name]
        return tensor

    def _stored(self, name: str) -> torch.Tensor:
        if name not in self._found:
            raise unsupported(name, "a tensor", "none; this layout is not known")
        return self._found[name]

    def check_all_taken(self) -> None:
        """Refuses a model with tensors that have not been read."""
        if self._found:
            raise unknown(next(iter(self._found)), f"tensor of {self._kind}")


def as_tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor of a state dict."""
    if not isinstance(value, torch.Tensor):
        raise invalid(name, "a tensor", type(value).__name__)
    return value.detach()
