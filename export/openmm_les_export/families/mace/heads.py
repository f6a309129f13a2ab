"""The head of a MACE model: one of several sets of readouts, references, scale and shift.

Fine-tuned models, and those trained on several levels of theory, have a head for each; an artifact
holds one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from openmm_les.errors import InputError, UnsupportedModelError
from openmm_les_export.checkpoints.records import Record, describe, invalid, unsupported


@dataclass(frozen=True)
class Head:
    """Which head of a model is read, of how many."""

    name: str
    index: int
    count: int

    def of(self, values: torch.Tensor, path: str) -> torch.Tensor:
        """Its entry along the first axis of a tensor that has one for each head."""
        if values.shape[0] != self.count:
            raise unsupported(path, f"one entry for each of {self.count} heads", values.shape[0])
        return values[self.index]

    def number(self, record: Record, name: str) -> float:
        """Its number in a tensor with one for each."""
        return float(self.of(record.tensor(name).reshape(-1), f"{record.path}.{name}"))

    def energies(self, record: Record, elements: int) -> torch.Tensor:
        """Isolated-atom energies, shape [Z] [eV], float64."""
        energies = record.tensor("atomic_energies")
        energies = energies.reshape(-1, energies.shape[-1])  # old files have no axis for heads
        if energies.shape[1] != elements:
            raise invalid("atomic_energies", f"{elements} energies", energies.shape[1])
        return self.of(energies, f"{record.path}.atomic_energies").to(torch.float64)

    def readout(self, matrices: list[torch.Tensor], record: Record) -> list[torch.Tensor]:
        """Its output of a readout, whose outputs are heads, and its hidden units if there are."""
        if matrices[-1].shape[1] != self.count:
            raise UnsupportedModelError(
                f"model: {record.path}: expected one output for each of {self.count} heads, got "
                f"{matrices[-1].shape[1]} outputs"
            )
        last = matrices[-1][:, self.index : self.index + 1]
        # Without this attribute (old files) all hidden units act on every head.
        groups = record.number("num_heads") if "num_heads" in record.state else 1
        if len(matrices) == 1 or groups == 1:
            return [*matrices[:-1], last]
        if groups != self.count or len(last) % self.count != 0:
            raise UnsupportedModelError(
                f"model: {record.path}.num_heads: expected {self.count} heads with as many hidden "
                f"units each, got {groups:g} for {len(last)} units"
            )
        width = len(last) // self.count
        own = slice(self.index * width, (self.index + 1) * width)
        return [matrices[0][:, own], last[own]]


def choose_head(model: Record, name: str | None) -> Head:
    """The head that was asked for; without a name the only one."""
    heads = model.value("heads", ["Default"])
    if (
        not isinstance(heads, list | tuple)
        or not heads
        or not all(isinstance(head, str) for head in heads)
        or len(set(heads)) != len(heads)
    ):
        raise invalid("heads", "different names", describe(heads))
    if name is None and len(heads) > 1:
        raise InputError(
            f"head: this model has several, {', '.join(heads)}; choose the one to export with "
            f"--head {heads[-1]} (head={heads[-1]!r} in Python)"
        )
    if name is not None and name not in heads:
        raise InputError(f"head: expected one of {', '.join(heads)}, got {name!r}")
    index = 0 if name is None else heads.index(name)
    return Head(heads[index], index, len(heads))
