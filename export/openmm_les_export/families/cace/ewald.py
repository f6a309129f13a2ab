"""LES parameters of CACE's own Ewald sum, whose charges are in units of its own.

Its energy is that of the les package with a prefactor of 1 and other charges q. Charges in e are
``q sqrt(w N / P)``, with the factor N of the sum, its weight w in the total energy, and the
prefactor P of the les package: they have the same energy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from openmm_les_export.checkpoints.records import Record, describe, invalid, unsupported
from openmm_les_export.families.canonical_form import integer_order
from openmm_les_export.families.les_choice import DEFAULT, PREFACTORS
from openmm_les_export.families.les_parameters import MODEL_FILE, check_derived, les_flag


@dataclass(frozen=True)
class LES:
    """The sum over charges of a model, and the factor that takes its network's charges to e."""

    parameters: dict[str, float | bool]
    scale: float = 1.0
    channels: int = 1  #: charges of each atom
    charge_sign: int | None = None  #: where the file states it
    origins: dict[str, str] = field(default_factory=dict)


def ewald_parameters(ewald: Record, weight: float, charge: Record, others: Iterable[Record]) -> LES:
    """Of an EwaldPotential with a weight, the network of its charges and other output modules."""
    sigma, dl, factor = (ewald.number(name) for name in ("sigma", "dl", "norm_factor"))
    check_derived(ewald, "sigma_sq_half", sigma**2 / 2)
    check_derived(ewald, "k_sq_max", (2 * math.pi / dl) ** 2)
    if not factor > 0:
        raise unsupported(ewald.path_of("norm_factor"), "a positive number", f"{factor:g}")
    prefactor = PREFACTORS[-1]
    scale = math.sqrt(weight * factor / prefactor)
    converted = f"charges in e: those of the file times sqrt({weight * factor:g} / {prefactor})"
    parameters: dict[str, float | bool] = {
        "sigma": sigma,
        "dl": dl,
        "prefactor": prefactor,
        "remove_self_interaction": les_flag(ewald, "remove_self_interaction"),
        "bec_remove_mean": True,
        "bec_epsilon_factor": 1.0,
    }
    channels = integer_order(charge.path_of("n_out"), charge.number("n_out"), 1, 100)
    if channels > 1 and parameters["remove_self_interaction"]:
        # Each channel's energy is without the self-interaction of all of them.
        parameters["periodic_self_terms"] = channels
    polarization = _polarization(others, ewald.value("feature_key"))
    if polarization is None or channels > 1:
        defaults = dict.fromkeys(("bec_remove_mean", "bec_epsilon_factor"), DEFAULT)
        return LES(parameters, scale, channels, None, {"prefactor": converted, **defaults})
    physical = polarization.number("normalization_factor") / scale
    if physical == 0:
        raise invalid(polarization.path_of("normalization_factor"), "a number other than 0", 0)
    parameters["bec_epsilon_factor"] = physical**2
    parameters["bec_remove_mean"] = les_flag(polarization, "remove_mean")
    origins = {"prefactor": converted, "charge_sign": MODEL_FILE}
    return LES(parameters, scale, 1, 1 if physical > 0 else -1, origins)


def _polarization(others: Iterable[Record], charges: Any) -> Record | None:
    """What makes a polarization of these charges, if anything does."""
    found = [r for r in others if r.kind == "Polarization" and r.value("charge_key") == charges]
    settings = {describe(r.value("normalization_factor")) for r in found}
    if len(settings) > 1:
        raise unsupported(
            found[-1].path_of("normalization_factor"), "one factor", ", ".join(sorted(settings))
        )
    return found[0] if found else None
