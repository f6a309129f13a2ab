"""Latent moments beyond the charge: which of them a model has, in its hyper-parameters.

Families that know them have a field ``moments: Moments | None = None``. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import StrictBool, model_validator

from openmm_les.networks.parameters import Parameters
from openmm_les.networks.registry import charge_channels

if TYPE_CHECKING:
    from openmm_les.electrostatics.multipoles import LatentLayout


#: Quantities that only models with moments have: with one of these, by names in `LatentLayout`.
_NEEDED = {
    "atomic_dipoles": ("dipoles", "alpha"),
    "quadrupoles": ("quadrupoles",),
    "polarizability": ("alpha",),
    "induced_charges": ("kappa",),
    "induced_dipoles": ("alpha",),
}


class Moments(Parameters):
    """What each atom has beside its charge; a network has a row of latents for every number."""

    dipoles: StrictBool = False
    quadrupoles: StrictBool = False
    kappa: StrictBool = False  #: charge response
    alpha: Literal["isotropic", "anisotropic"] | None = None  #: polarizability

    def __str__(self) -> str:
        named = {
            "charges": True,
            "dipoles": self.dipoles,
            "quadrupoles": self.quadrupoles,
            "charge response (kappa)": self.kappa,
            f"{self.alpha} polarizability (alpha)": self.alpha is not None,
        }
        return ", ".join(name for name, has in named.items() if has)

    @model_validator(mode="after")
    def _check_any(self) -> Moments:
        if not (self.dipoles or self.quadrupoles or self.kappa or self.alpha):
            raise ValueError("expected at least one kind of moments, got none")
        return self


def moments_of(hyper: Mapping[str, Any]) -> Moments | None:
    """What the hyper-parameters of any family say; None for charges alone."""
    found = hyper.get("moments")
    return None if found is None else Moments.model_validate(found)


def latent_rows(hyper: Mapping[str, Any]) -> int:
    """Latent numbers of each atom: charges that add up, or one charge and what `Moments` says."""
    layout = layout_of(hyper)
    return charge_channels(hyper) if layout is None else layout.rows


def layout_of(hyper: Mapping[str, Any]) -> LatentLayout | None:
    """The rows of its latents; None for charges alone."""
    from openmm_les.electrostatics.multipoles import latent_layout

    moments = moments_of(hyper)
    if moments is None:
        return None
    return latent_layout(
        dipoles=moments.dipoles,
        quadrupoles=moments.quadrupoles,
        kappa=moments.kappa,
        alpha_rows={None: 0, "isotropic": 1, "anisotropic": 9}[moments.alpha],
    )


def moments_in(layout: LatentLayout | None) -> list[str]:
    """Names of the moments that there are, in the order of their rows."""
    names = ("dipoles", "quadrupoles", "kappa", "alpha")
    return [name for name in names if getattr(layout, name, -1) >= 0]


def missing_moments(layout: LatentLayout | None, quantity: str) -> tuple[str, ...]:
    """Moments of which a quantity needs one, if there is none of them."""
    needed = _NEEDED.get(quantity, ())
    return () if set(needed).intersection(moments_in(layout)) else needed
