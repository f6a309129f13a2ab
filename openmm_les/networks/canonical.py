"""What an exporter hands over: a model without its framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CanonicalModel:
    """A short-range network and its LES parameters, as ``docs/design.md`` defines them per family.

    Attributes:
        family: name of the architecture, such as ``"mace"``; decides what `hyper` and `state` mean.
        hyper: hyper-parameters, JSON values only.
        state: effective weights, float64 on the CPU.
        les: ``sigma`` [A], ``dl`` [A], ``prefactor`` [eV A], ``remove_self_interaction``,
            ``bec_remove_mean``, ``bec_epsilon_factor``.
        source: where the model came from: ``file``, ``sha256``, ``class``, ``dtype``, ``vintage``;
            JSON values only.
        provenance: where each LES parameter, and ``reference_energies``, came from: ``"model
            file"`` or the option by which the user gave it.
    """

    family: str
    hyper: dict[str, Any]
    state: dict[str, torch.Tensor]
    les: dict[str, float | bool]
    source: dict[str, Any]
    provenance: dict[str, str] = field(default_factory=dict)
