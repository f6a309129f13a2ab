"""The settings of a free energy calculation, from one YAML file; imports no torch, no openmm."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from openmm_les.campaign.plan import PlannedRun, seed_of
from openmm_les.errors import InputError
from openmm_les.names import LAMBDA
from openmm_les.simulation import config as configs
from openmm_les.simulation.fields import LARGEST_SEED, Integer, Number
from openmm_les.simulation.shared_settings import check_names, read_as

#: Columns of the table of runs beside lambda: whose window it is.
LIGAND, LEG = "ligand", "leg"
#: The name of a window is this and its lambda, below those of ligand and leg.
WINDOW = "lambda-"
#: Settings of runs that the windows decide.
_OWN = dict.fromkeys(
    ("output", "seed", LAMBDA), "every window has its own (windows and seed beside base decide)"
)
_EXPECTED = {
    "base": "settings by name",
    "ligands": "at least one, with legs, with settings by name",
    "legs": "a list of texts",
    "windows": "an integer or a list of numbers",
}
#: Digits of lambda after the point.
_DIGITS = 6
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

Where = tuple[str, str]  #: A ligand and a leg


def _equal(value: Any) -> Any:
    """Equal windows, where their number is given."""
    return np.linspace(0.0, 1.0, value).tolist() if type(value) is int else value


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
    windows: Annotated[tuple[Number, ...], BeforeValidator(_equal)] = Field(
        9,
        validate_default=True,
        description="number of equal windows, or a list of values of lambda",
    )
    seed: Integer | None = Field(
        None, ge=1, le=LARGEST_SEED, description="decides all seeds; null: a new one"
    )

    @property
    def values(self) -> tuple[float, ...]:
        """Lambda of every window, in order, from 0 to 1."""
        return tuple(sorted(round(x, _DIGITS) for x in self.windows))


def read_settings(file: Path) -> FreeEnergySettings:
    """Read the YAML file; an InputError names whatever is wrong in it."""
    settings = read_as(file, FreeEnergySettings, _EXPECTED)
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
    check_names(f"{file}: base", settings.base, _OWN)
    for ligand, legs in settings.ligands.items():
        if {*legs} != {*settings.legs}:
            raise InputError(
                f"{file}: ligands.{ligand}: expected the legs {' and '.join(settings.legs)} (legs "
                f"beside ligands says which there are), got {', '.join(legs) or 'none'}"
            )
        for leg, given in legs.items():
            check_names(f"{file}: ligands.{ligand}.{leg}", given, _OWN)


def planned_windows(
    settings: FreeEnergySettings,
    file: Path,
    more: Callable[[Where], Sequence[float]] = lambda where: (),
) -> Callable[[int], list[PlannedRun]]:
    """What gives all windows for a seed, those of the settings, which stand in `file`, and `more`.

    The seed of a window follows from its name, whatever other windows there are.
    """

    def window(ligand: str, leg: str, value: float, seed: int) -> PlannedRun:
        name = f"{ligand}/{leg}/{WINDOW}{value:g}"
        given = settings.base | settings.ligands[ligand][leg]
        given |= {LAMBDA: value, "seed": seed_of(seed, name)}
        varied = {LIGAND: ligand, LEG: leg, LAMBDA: value}
        config = configs.of_values(given, file)
        if config.ensemble == "NVE":
            raise InputError(
                f"{file}: ensemble: expected NVT or NPT, since free energies are those at a "
                "temperature, got NVE"
            )
        return PlannedRun(name, varied, 1, config)

    def plan(seed: int) -> list[PlannedRun]:
        return [
            window(ligand, leg, value, seed)
            for ligand in settings.ligands
            for leg in settings.legs
            for value in sorted({*settings.values, *more((ligand, leg))})
        ]

    return plan
