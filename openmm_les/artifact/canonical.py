"""What an exporter hands over: a model without its framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openmm_les.files.reading import Damage

if TYPE_CHECKING:
    import torch

#: No weight, in any unit that a training may have, comes near.
_LARGEST = 1e12


@dataclass(frozen=True)
class CanonicalModel:
    """A short-range network and its LES parameters; docs/reference/formats/ defines them."""

    family: str  #: such as ``"mace"``; decides what `hyper` and `state` mean
    hyper: dict[str, Any]  #: JSON values only, as `source`
    state: dict[str, torch.Tensor]  #: effective weights, float64 on the CPU
    les: dict[str, float | bool]  #: the fields of `schema.LES`, except those that are None
    source: dict[str, Any]  #: ``file``, ``sha256``, ``class``, ``dtype``, ``vintage``
    #: ``"model file"`` or an option, for each LES parameter and ``reference_energies``.
    provenance: dict[str, str] = field(default_factory=dict)
    #: 1 or -1, the factor that makes latent charges physical, where the file states it.
    charge_sign: int | None = None

    def check(self) -> None:
        """Refuses a model that cannot be: parameters out of bounds, weights of other shapes."""
        import torch

        from openmm_les.artifact.schema import check_model, check_state

        if not all(isinstance(tensor, torch.Tensor) for tensor in self.state.values()):
            raise Damage("weights: expected tensors, got something else")
        hyper = check_model(self.family, self.hyper, self.les)
        shapes = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        check_state(self.family, hyper, shapes)
        broken = [n for n, t in self.state.items() if not bool((t.abs() <= _LARGEST).all())]
        if broken:
            raise Damage(
                f"weights: expected numbers up to {_LARGEST:g}, got NaN, infinity or more in "
                + ", ".join(broken[:5])
            )
        others = {str(t.dtype) for t in self.state.values()} - {"torch.float64"}
        if others:
            raise Damage(f"weights: expected torch.float64, got {min(others)}")
