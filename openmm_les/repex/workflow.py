"""Many exchanges side by side, as a campaign: those of systems, of settings, of repetitions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import Field

from openmm_les.campaign import plan as plans
from openmm_les.campaign.plan import Plan, PlannedRun, check_plan, planned_runs
from openmm_les.campaign.progress import CampaignCallbacks
from openmm_les.campaign.runner import Result, run_planned
from openmm_les.campaign.work import SameInputs, holds
from openmm_les.errors import InputError
from openmm_les.files.writing import write_atomically, writing
from openmm_les.repex.exchange import START, refuse_changed
from openmm_les.repex.settings import EXPECTED, ExchangeSettings, States, start_of, states_of
from openmm_les.simulation.output import ALL
from openmm_les.simulation.shared_settings import read_as, without_flags

if TYPE_CHECKING:
    from distributed import Client

#: File with the settings of an exchange, in its directory.
SETTINGS = "exchange.yaml"


class ExchangePlan(Plan, States):
    """What a campaign of exchanges varies; see `read_plan`."""

    command: Literal["repex"] = Field(description="what every run is")  # type: ignore[assignment]


def run(
    plan: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    client: Client | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    callbacks: CampaignCallbacks | None = None,
) -> Result:
    """Execute all exchanges of a plan that are not finished, each from where it was ended.

    Args:
        plan: YAML file of a campaign with ``command: repex``, as `read_plan` reads it.
        output: directory of the campaign, on a file system that all workers share.
        client, workers, scheduler, callbacks: as for `openmm_les.campaign.runner.run`.

    Raises:
        InputError, OutputError, SimulationError: as `openmm_les.campaign.runner.run` does.
    """
    file = Path(plan)
    planned = read_plan(file)
    return run_planned(
        lambda seed: planned_exchanges(planned, seed, file),
        output,
        seed=planned.seed,
        work=ExchangeWork(planned, file),
        client=client,
        workers=workers,
        scheduler=scheduler,
        callbacks=callbacks,
    )


def read_plan(file: Path) -> ExchangePlan:
    """Read the YAML file of a plan; InputError names whatever is wrong in it."""
    plan = read_as(file, ExchangePlan, plans.EXPECTED | EXPECTED)
    check_plan(file, plan)
    plan.check(file, {"base": plan.base, "vary": plan.vary, "zip": plan.zip})
    return plan


def planned_exchanges(plan: ExchangePlan, seed: int, file: Path) -> list[PlannedRun]:
    """All exchanges of a plan that stands in `file`; as `planned_runs`."""
    runs = planned_runs(plan, seed, file)
    for each in runs:  # an InputError for a state that is not valid
        states_of(_settings(plan, each), file, each.config.output)
    return runs


def _settings(states: States, run: PlannedRun) -> ExchangeSettings:
    given = run.config.model_dump(mode="json", exclude_unset=True, exclude={"output"})
    return ExchangeSettings(base=given, temperatures=states.temperatures, lambdas=states.lambdas)


class ExchangeWork:
    """Each run of a campaign is an exchange; implements `Work`."""

    def __init__(self, states: States, file: Path) -> None:
        self._states, self._file, self._same = states, file, SameInputs()

    def command(self, directory: Path) -> tuple[str, ...]:
        return ("repex", "run", str(directory / SETTINGS), "-o", str(directory))

    def has_begun(self, directory: Path) -> bool:
        return any((directory / START / name).exists() for name in ALL)

    def is_written(self, run: PlannedRun) -> bool:
        return holds(run.config.output / SETTINGS, self._text(run))

    def check_begun(self, run: PlannedRun) -> None:
        directory = run.config.output
        states = states_of(_settings(self._states, run), self._file, directory / START)
        try:
            refuse_changed(self._states, states, directory)
            self._same.check(start_of(states))
        except InputError as error:
            text = without_flags(str(error), directory)
            raise InputError(f"the run {run.name} has begun, and {text}") from None

    def write(self, run: PlannedRun) -> None:
        with writing(run.config.output):
            run.config.output.mkdir(parents=True, exist_ok=True)
        write_atomically(run.config.output / SETTINGS, self._text(run).encode())

    def _text(self, run: PlannedRun) -> str:
        settings = _settings(self._states, run).model_dump(mode="json", exclude_none=True)
        text: str = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=10_000)
        return f"# Written by openmm-les campaign run.\n{text}"
