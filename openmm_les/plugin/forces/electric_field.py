"""The option ``electricField`` and its Context parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from openmm import unit

from openmm_les.errors import InputError
from openmm_les.units import VOLT_PER_ANGSTROM_PER_VOLT_PER_NM

#: Global parameters of a force in a field, one for each component [V/nm].
PARAMETERS = ("electricFieldX", "electricFieldY", "electricFieldZ")

Field = tuple[float, float, float]


def read_field(value: Any) -> Field | None:
    """Components [V/nm] of a field, from a Quantity or from numbers [V/nm] or Quantities."""
    if value is None:
        return None
    wanted = unit.volt / unit.nanometer
    try:
        if unit.is_quantity(value):
            value = value.value_in_unit(wanted)
        x, y, z = (
            float(part.value_in_unit(wanted) if unit.is_quantity(part) else part) for part in value
        )
    except (TypeError, ValueError, AttributeError):
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))):
        raise InputError(
            "electricField: expected three finite components [V/nm], such as (0, 0, 0.5) or "
            f"(0, 0, 0.5)*volt/nanometer, got {value!r}"
        )
    return x, y, z


def defaults(field: Field | None) -> dict[str, float]:
    """Global parameters of a force and their values in a new Context [V/nm]."""
    return {} if field is None else dict(zip(PARAMETERS, field, strict=True))


def field_of(parameters: Mapping[str, float]) -> list[float]:
    """The field [V/A] that the parameters of a Context state."""
    return [VOLT_PER_ANGSTROM_PER_VOLT_PER_NM * parameters[name] for name in PARAMETERS]
