"""The settings of a replica exchange, from one YAML file; imports no torch, no openmm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from openmm_les.errors import InputError
from openmm_les.names import LAMBDA
from openmm_les.simulation import config as configs
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.fields import Number
from openmm_les.simulation.shared_settings import check_names, read_as

TEMPERATURE = "temperature"
#: Settings of a run that an exchange has no use for, with what to do.
_NOT_HERE = {
    "output": "it is the directory of the exchange",
    LAMBDA: "give a list of them as lambdas, beside base",
    "response": "an exchange writes trajectories and energies alone",
    "trajectory_interval": "frames are written at every exchange, after report_interval steps",
}
_OF_STATES = {TEMPERATURE: "temperatures has those of states"}
#: What fields take that are neither numbers nor texts.
EXPECTED = {"base": "settings by name"} | dict.fromkeys(
    ("temperatures", "lambdas"), "a list of numbers or null"
)


class States(BaseModel):
    """What differs between the states."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperatures: tuple[Number, ...] | None = Field(None, description="of states, in order [K]")
    lambdas: tuple[Number, ...] | None = Field(
        None, description="of states, in order, from 0 (force field) to 1 (ML/MM)"
    )

    @property
    def parameter(self) -> str:
        """What differs between states, by the name of the setting of a run."""
        return LAMBDA if self.temperatures is None else TEMPERATURE

    @property
    def lists(self) -> str:
        """The name of the setting with its values."""
        return "lambdas" if self.temperatures is None else "temperatures"

    @property
    def values(self) -> tuple[float, ...]:
        """Its value in every state."""
        return (self.lambdas if self.temperatures is None else self.temperatures) or ()

    def check(self, file: Path, places: Mapping[str, Iterable[str]]) -> None:
        """Check the values, and the names of settings at `places` in the file (InputError)."""
        if (self.temperatures is None) == (self.lambdas is None):
            got = "neither" if self.temperatures is None else "both"
            raise InputError(f"{file}: temperatures and lambdas: expected one of them, got {got}")
        values = self.values
        if len(values) < 2 or sorted({*values}) != [*values]:
            got = ", ".join(f"{value:g}" for value in values) or "none"
            raise InputError(
                f"{file}: {self.lists}: expected at least two, each higher than the last, got {got}"
            )
        refused = _NOT_HERE | (_OF_STATES if self.parameter == TEMPERATURE else {})
        for place, names in places.items():
            check_names(f"{file}: {place}", names, refused)


class ExchangeSettings(States):
    """The states between which replicas are exchanged; see `read_settings`."""

    base: dict[str, Any] = Field(
        description="settings of `openmm-les run`: every replica makes `steps` steps, and exchanges"
        " follow every `report_interval`"
    )


def read_settings(file: Path) -> ExchangeSettings:
    """Read the YAML file; an InputError names whatever is wrong in it."""
    settings = read_as(file, ExchangeSettings, EXPECTED)
    settings.check(file, {"base": settings.base})
    return settings


def start_of(states: Sequence[RunConfig]) -> RunConfig:
    """The run from which all replicas begin: the equilibration of the first state.

    It has no page, which would tell how to continue it, as an exchange must not.
    """
    steps = max(states[0].equilibration_steps, states[0].report_interval)
    changes = {"steps": steps, "equilibration_steps": 0, "report": "off"}
    return states[0].model_copy(update=changes)


def states_of(settings: ExchangeSettings, file: Path, output: Path) -> list[RunConfig]:
    """The settings of a run in each state; an InputError for one that is not valid."""
    states = [
        configs.of_values(settings.base | {settings.parameter: value, "output": output}, file)
        for value in settings.values
    ]
    allowed = ("NVT",) if settings.parameter == TEMPERATURE else ("NVT", "NPT")
    if (ensemble := states[0].ensemble) not in allowed:
        raise InputError(
            f"{file}: base.ensemble: expected {' or '.join(allowed)} where {settings.parameter} "
            f"differs, got {ensemble}; OpenMM's exchanges leave out what the volume adds to the "
            "energy"
        )
    return states
