"""Checks of arguments that all reporters have."""

from __future__ import annotations

import math
import operator
from typing import Any, SupportsIndex

from openmm import unit

from openmm_les.errors import InputError


def read_interval(given: SupportsIndex) -> int:
    """The number of steps between two reports, which must be an integer above 0."""
    try:
        steps = operator.index(given)
    except TypeError:
        steps = 0
    if steps < 1:
        raise InputError(f"reportInterval: expected a number of steps above 0, got {given!r}")
    return steps


def read_temperature(name: str, given: Any) -> float | None:
    """The temperature [K] of an argument, a Quantity or a number above 0; None stays None."""
    if given is None:
        return None
    try:
        kelvin = float(given.value_in_unit(unit.kelvin) if unit.is_quantity(given) else given)
    except (TypeError, ValueError):
        kelvin = math.nan
    if not 0.0 < kelvin < math.inf:
        raise InputError(f"{name}: expected a temperature above 0 K, got {given!r}")
    return kelvin
