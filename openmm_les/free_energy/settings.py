"""The settings of a free energy calculation, from one YAML file; imports no torch, no openmm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from openmm_les.campaign.plan import PlannedRun, seed_of
from openmm_les.errors import InputError
from openmm_les.names import did_you_mean
from openmm_les.simulation import config as configs
from openmm_les.simulation import fields, settings_file
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.fields import Integer, Number

#: Columns of the table of runs: whose window it is, and its lambda.
LIGAND, LEG, LAMBDA = "ligand", "leg", "lambda_interpolate"
#: Settings of runs that the windows decide.
_OWN = ("output", "seed", LAMBDA)
#: Digits of lambda after the point.
_DIGITS = 6
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

Where = tuple[str, str]  #: A ligand and a leg


class FreeEnergySettings(BaseModel):
    """Which ligands go from the force field to ML/MM, and where; see `read_settings`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: dict[str, Any] = Field(
        {}, description="settings of `openmm-les run` that all windows share"
    )
    ligands: dict[str, dict[str, dict[str, Any]]] = Field(
        min_length=1, description="for each ligand the settings of its legs by name"
    )
    legs: tuple[str, ...] = Field(
        ("complex", "solvent"),
        min_length=1,
        max_length=2,
        description="one leg, or two, of which the result is the first minus the second",
    )
    windows: Integer | tuple[Number, ...] = Field(
        9, description="number of equal windows, or a list of values of lambda"
    )
    seed: Integer | None = Field(
        None, ge=1, le=2**31 - 1, description="decides all seeds; null: a new one"
    )

    @property
    def values(self) -> tuple[float, ...]:
        """Lambda of every window, in order, from 0 to 1."""
        if isinstance(self.windows, int):
            return tuple(round(float(x), _DIGITS) for x in np.linspace(0.0, 1.0, self.windows))
        return tuple(sorted(round(x, _DIGITS) for x in self.windows))


def read_settings(file: Path) -> FreeEnergySettings:
    """Read the YAML file; an InputError names whatever is wrong in it."""
    values = settings_file.read(file)
    known = FreeEnergySettings.model_fields
    try:
        settings = FreeEnergySettings(**values)
    except ValidationError as error:
        details = error.errors()[0]
        first = str(details["loc"][0])
        if details["type"] == "extra_forbidden":
            hint = did_you_mean(first, known) or f"; there are {', '.join(known)}"
            if first in RunConfig.model_fields:
                hint = " (a setting of the runs belongs below base)"
            raise InputError(f"{file}: {first}: unknown field{hint}") from None
        name = ".".join(map(str, details["loc"])) if first == "ligands" else first
        got = "nothing" if details["type"] == "missing" else fields.shown(details["input"])
        raise InputError(
            f"{file}: {name}: expected {known[first].description}, got {got}"
        ) from None
    _check(file, settings)
    return settings


def _check(file: Path, settings: FreeEnergySettings) -> None:
    values = settings.values
    if len(values) < 2 or values[0] != 0.0 or values[-1] != 1.0 or len({*values}) < len(values):
        got = ", ".join(f"{value:g}" for value in values) or "none"
        raise InputError(
            f"{file}: windows: expected at least two values of lambda that differ, from 0 (the "
            f"force field) to 1 (ML/MM), got {got}"
        )
    for name in (*settings.legs, *settings.ligands):
        if not _NAME.fullmatch(name):
            raise InputError(
                f"{file}: expected names of ligands and legs of letters, digits and _.+-, since "
                f"they name directories, got {name!r}"
            )
    if len({*settings.legs}) < len(settings.legs):
        raise InputError(f"{file}: legs: expected names that differ, got {settings.legs[0]} twice")
    _check_names(f"{file}: base", settings.base)
    for ligand, legs in settings.ligands.items():
        if {*legs} != {*settings.legs}:
            raise InputError(
                f"{file}: ligands.{ligand}: expected the legs {' and '.join(settings.legs)} (legs "
                f"beside ligands says which there are), got {', '.join(legs) or 'none'}"
            )
        for leg, given in legs.items():
            _check_names(f"{file}: ligands.{ligand}.{leg}", given)
            ensemble = (settings.base | given).get("ensemble", "NVT")
            if str(ensemble).upper() == "NVE":
                raise InputError(
                    f"{file}: ensemble: expected NVT or NPT, since free energies are those at a "
                    "temperature, got NVE"
                )


def _check_names(where: str, given: Mapping[str, Any]) -> None:
    known = RunConfig.model_fields
    for name in given:
        if name in _OWN:
            raise InputError(
                f"{where}.{name}: every window has its own; leave it out (windows and seed beside "
                "base decide)"
            )
        if name not in known:
            hint = did_you_mean(name, known) or " of `openmm-les run`"
            raise InputError(f"{where}.{name}: unknown setting{hint}")


def planned_windows(
    settings: FreeEnergySettings,
    file: Path,
    more: Callable[[Where], Sequence[float]] = lambda where: (),
) -> Callable[[int], list[PlannedRun]]:
    """What gives all windows for a seed, those of the settings, which stand in `file`, and `more`.

    The seed of a window follows from its name, whatever other windows there are.
    """

    def window(ligand: str, leg: str, value: float, seed: int) -> PlannedRun:
        name = f"{ligand}/{leg}/lambda-{value:g}"
        given = settings.base | settings.ligands[ligand][leg]
        given |= {LAMBDA: value, "seed": seed_of(seed, name)}
        varied = {LIGAND: ligand, LEG: leg, LAMBDA: value}
        return PlannedRun(name, varied, 1, configs.of_values(given, file))

    def plan(seed: int) -> list[PlannedRun]:
        return [
            window(ligand, leg, value, seed)
            for ligand in settings.ligands
            for leg in settings.legs
            for value in sorted({*settings.values, *more((ligand, leg))})
        ]

    return plan
