"""The plan of a campaign: the settings of all its runs, from one YAML file.

Imports neither torch nor openmm.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from openmm_les.analysis.pages import csv_text
from openmm_les.errors import InputError
from openmm_les.simulation import config as configs
from openmm_les.simulation import fields
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.fields import LARGEST_SEED, Integer
from openmm_les.simulation.shared_settings import check_names, read_as, read_fields

#: Settings that the campaign decides.
_OWN = {"output": "every run has a directory of its own"}
#: Settings that the table of runs always has.
MEASURES = ("equilibration_steps", "steps", "time_step", "seed")
#: Characters of one value, and of all, in the name of a run.
_LONGEST_LABEL, _LONGEST_NAME = 60, 200
#: Digits of a hash, in a name that has not all of a value.
_DIGITS = 8
#: Most runs, beyond which a list was certainly meant otherwise.
_MOST = 100_000
#: What the runs of a plan can be; `openmm_les.repex.workflow` has the plans of the second.
_COMMANDS = ("run", "repex")
#: What fields take that are neither numbers nor texts.
EXPECTED = {
    "base": "settings by name",
    "vary": "a list of values for each setting",
    "zip": "a list of values for each setting",
}


class Plan(BaseModel):
    """What a campaign varies; see `read_plan`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: Literal["run"] = Field("run", description="what every run is")
    base: dict[str, Any] = Field({}, description="settings of `openmm-les run` that all runs share")
    vary: dict[str, list[Any]] = Field(
        {}, description="lists of values, of which every combination is a run"
    )
    zip: dict[str, list[Any]] = Field(
        {}, description="lists of equal length, whose n-th values go together"
    )
    repeats: Integer = Field(
        1, ge=1, description="runs with each combination, with seeds of their own"
    )
    seed: Integer | None = Field(
        None, ge=1, le=LARGEST_SEED, description="decides all seeds; null: a new one"
    )


@dataclass(frozen=True)
class PlannedRun:
    """One run of a campaign."""

    name: str  #: Name of its directory, which says what is varied
    varied: dict[str, Any]  #: The values of varied settings, as they are written in the plan
    repeat: int  #: Number of the repetition, from 1
    config: RunConfig  #: Its settings but for `output`


def read_plan(file: Path) -> Plan:
    """Read the YAML file of a plan; InputError names whatever is wrong in it."""
    if (command := command_of(file)) != "run":
        raise InputError(
            f"{file}: command: expected run, got {command}; from Python, "
            "openmm_les.repex.workflow.run executes this plan"
        )
    plan = read_as(file, Plan, EXPECTED)
    check_plan(file, plan)
    return plan


def command_of(file: Path) -> str:
    """What every run of a plan is, whatever else is in the file: ``run`` or ``repex``."""
    command = read_fields(file, Plan.model_fields).get("command", "run")
    if command not in _COMMANDS:
        raise InputError(
            f"{file}: command: expected {' or '.join(_COMMANDS)}, got {fields.shown(command)}"
        )
    return str(command)


def check_plan(file: Path, plan: Plan) -> None:
    """Check what no single run shows: names, lists, how often a setting is given."""
    places = {"base": plan.base, "vary": plan.vary, "zip": plan.zip}
    found: dict[str, str] = {}
    for place, given in places.items():
        check_names(f"{file}: {place}", given, _OWN)
        for name in given:
            if name in found:
                raise InputError(
                    f"{file}: {place}.{name}: expected it once, got it in {found[name]}, too"
                )
            found[name] = place
    for place, lists in (("vary", plan.vary), ("zip", plan.zip)):
        for name, values in lists.items():
            if not values:
                raise InputError(f"{file}: {place}.{name}: expected at least one value, got none")
    lengths = {name: len(values) for name, values in plan.zip.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"{file}: zip: expected lists of equal length, got {got}")
    if "seed" in found and plan.repeats > 1:
        raise InputError(
            f"{file}: {found['seed']}.seed: runs with the same seed are the same, so repeats "
            "cannot have it; leave one of them out (seed beside base decides all seeds)"
        )


def planned_runs(plan: Plan, seed: int, file: Path) -> list[PlannedRun]:
    """All runs of a plan that stands in `file`, with seeds that follow from `seed`.

    Names and seeds of runs stay the same when lists get longer. Raises an InputError for a run that
    is not valid, and for values that occur twice.
    """
    runs: dict[str, PlannedRun] = {}
    same: dict[str, PlannedRun] = {}  # by all settings but the seed, which follows from the name
    for varied in _combinations(plan):
        for repeat in range(1, plan.repeats + 1):
            name = _name_of(varied, repeat)
            if name in runs:  # such as a_model-b and c, or a and b_model-c
                name = _hashed(f"{name} {varied}", _LONGEST_NAME)
            values = plan.base | varied
            has_seed = values.get("seed") is not None
            config = configs.of_values(values, file)
            if not has_seed:
                config = config.model_copy(update={"seed": seed_of(seed, name)})
            run = PlannedRun(name, varied, repeat, config)
            exclude = None if has_seed else {"seed"}
            other = same.setdefault(f"{config.model_dump_json(exclude=exclude)} {repeat}", run)
            if other is not run:
                raise InputError(
                    f"{file}: expected values that differ, got {_text(other.varied)} and "
                    f"{_text(varied)}, which are the same run"
                )
            runs[name] = run
            if len(runs) > _MOST:
                raise InputError(f"{file}: expected at most {_MOST} runs, got more")
    return list(runs.values())


def _combinations(plan: Plan) -> Iterator[dict[str, Any]]:
    rows = [dict(zip(plan.zip, row, strict=True)) for row in zip(*plan.zip.values(), strict=True)]
    for row in rows or [{}]:
        for values in itertools.product(*plan.vary.values()):
            yield row | dict(zip(plan.vary, values, strict=True))


def _name_of(varied: Mapping[str, Any], repeat: int) -> str:
    # In any order of the file.
    parts = [f"{name}-{_label(varied[name])}" for name in RunConfig.model_fields if name in varied]
    name = "_".join([*parts, f"repeat-{repeat}"])
    return name if len(name) <= _LONGEST_NAME else _hashed(name, _LONGEST_NAME)


def _label(value: Any) -> str:
    """A value in the name of a directory; values that differ have labels that do."""
    if isinstance(value, list):
        text = "+".join(map(_label, value))
    elif isinstance(value, dict):
        text = "+".join(f"{name}-{_label(each)}" for name, each in value.items())
    elif isinstance(value, bool):
        text = "on" if value else "off"  # as YAML has them
    elif isinstance(value, int | float):
        text = f"{value:g}" if float(f"{value:g}") == value else str(value)
    else:
        text = str(value)
    is_whole = len(text) <= _LONGEST_LABEL and re.fullmatch(r"[A-Za-z0-9_.+-]+", text)
    return text if is_whole else _hashed(text, _LONGEST_LABEL)


def _hashed(text: str, length: int) -> str:
    """What a name can have of a text, and a hash of all of it."""
    shown = re.sub(r"[^A-Za-z0-9_.+]+", "-", text)[: length - _DIGITS - 1].strip("-.")
    return "-".join(filter(None, (shown, hashlib.sha256(text.encode()).hexdigest()[:_DIGITS])))


def seed_of(seed: int, name: str) -> int:
    """The seed of the run with a name, of a campaign with a seed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % LARGEST_SEED


def _text(varied: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in varied.items()) or "no varied value"


def table(runs: Sequence[PlannedRun]) -> str:
    """The runs as CSV: name, varied settings, repetition, and what their state is measured by."""
    varied = list(runs[0].varied)
    others = [name for name in MEASURES if name not in varied]
    rows = (
        [run.name, *run.varied.values(), run.repeat, *(getattr(run.config, n) for n in others)]
        for run in runs
    )
    return csv_text(["run", *varied, "repeat", *others], rows)
