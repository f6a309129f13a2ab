"""The settings of a run: one flat model, whose fields are the keys of a file and the flags.

Imports neither torch nor openmm, so that the command line can show its help at once.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from openmm_les.errors import InputError
from openmm_les.evaluation.options import Cutoff, EvaluationOptions, Ewald, Precision
from openmm_les.names import did_you_mean, flag_of, shorten, spellings
from openmm_les.simulation import fields, settings_file
from openmm_les.simulation.fields import (
    LARGEST_SEED,
    Ensemble,
    Integer,
    Number,
    NumbersByName,
    OnOrOff,
    Switch,
    Texts,
    evaluation,
)
from openmm_les.simulation.region_settings import check_region

logger = logging.getLogger(__name__)

_PATHS = ("structure", "model", "output", "system")
#: Lists of paths, or of names of files that come with OpenMM.
_FILES = ("force_field",)

#: Characters of an unknown name in a message.
_LONGEST_NAME = 60
#: Name of the file in the directory of a run.
CONFIG = "config.yaml"
#: Name of the file that marks the directory of a campaign; those of its runs are below it.
CAMPAIGN = "campaign.json"
#: Electric properties of the model that a run can write.
RESPONSES = (
    *("dipole", "current", "charges", "born_charges", "les_energy", "velocities"),
    *("polarizability", "atomic_dipoles", "quadrupoles", "induced_charges", "induced_dipoles"),
)

#: Usual values; others are most often in another unit (ps, Celsius, 1/s, Pa, A).
_USUAL = {
    "temperature": (50.0, 3000.0),
    "pressure": (0.001, 5e4),
    "friction": (0.001, 1000.0),
    "time_step": (0.05, 5.0),
    "nonbonded_cutoff": (0.4, 3.0),
}


@dataclass(frozen=True)
class _Origin:
    """Where values came from, for messages: a file, and the flags that override it."""

    file: str | os.PathLike[str] | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    is_of_many: bool = False  #: Whether the file has the settings of several runs


#: What is said of a field that is like no other, and the end of it.
_UNKNOWN = "unknown field"


class RunConfig(BaseModel):
    """What to simulate and how.

    Everything is checked on construction: an InputError names each wrong field, what was expected
    and what came. Numbers are in the unit that the description names, or Quantities of OpenMM.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    structure: Path = Field(description="PDB or mmCIF file to start from")
    model: str = Field(description="model name (`openmm-les models list`) or path of a *.les.pt")
    output: Path = Field(
        Path("run"), validate_default=True, description="directory for everything that is written"
    )
    ensemble: Ensemble = Field(
        "NVT", description="ensemble of production; NVE is equilibrated as NVT"
    )
    temperature: Number = Field(300.0, gt=0, description="temperature [K]")
    pressure: Number = Field(1.0, description="pressure of NPT [bar]")
    friction: Number = Field(1.0, gt=0, description="friction of the Langevin thermostat [1/ps]")
    time_step: Number = Field(0.5, gt=0, description="time step [fs]")
    steps: Integer = Field(100_000, ge=1, description="steps of production")
    equilibration_steps: Integer = Field(10_000, ge=0, description="steps before production")
    minimise_iterations: Integer = Field(
        1000, ge=0, description="most iterations of the energy minimisation; 0 leaves it out"
    )
    report_interval: Integer = Field(
        1000, ge=1, description="steps between rows of log.csv, and between checkpoints"
    )
    trajectory_interval: Integer | None = Field(
        None, ge=1, description="steps between frames of trajectory.dcd; null: report_interval"
    )
    response: Texts | None = Field(
        None,
        description="what response.csv holds: dipole, current, charges, born_charges, les_energy,"
        " velocities, and of models with moments polarizability, atomic_dipoles, quadrupoles,"
        " induced_charges, induced_dipoles",
    )
    response_interval: Integer = Field(4, ge=1, description="steps between rows of response.csv")
    barostat_interval: Integer = Field(
        25, ge=1, description="steps between attempts of the NPT barostat to change the volume"
    )
    report: OnOrOff = Field("on", description="report.html, a page about the run")
    seed: Integer | None = Field(
        None, ge=1, le=LARGEST_SEED, description="random seed; null: a new one, which is recorded"
    )
    precision: Precision = evaluation("precision")
    device: str | None = evaluation("device", None)
    engine: Literal["auto", "torchscript"] = Field(
        "auto",
        description="auto: the fastest way found by measuring on this machine, else the default;"
        " torchscript: torch code only",
    )
    backend: Literal["auto", "pythonforce", "torchforce"] = Field(
        "auto", description="how OpenMM calls the model"
    )
    platform: Literal["auto", "Reference", "CPU", "CUDA", "OpenCL", "HIP"] = Field(
        "auto", description="OpenMM platform; auto: CUDA on a CUDA device, else CPU or Reference"
    )
    cuda_graphs: Switch = evaluation("cudaGraphs")
    max_neighbors: Integer | None = evaluation("maxNeighbors")
    ewald: Ewald = evaluation("ewald")
    ewald_tolerance: Number = evaluation("ewaldTolerance")
    les_cutoff: Cutoff = evaluation("lesCutoff")
    charge: Number | None = Field(
        None,
        description="total charge of what the model describes [e], for models trained with it and"
        " for embedding: electrostatic; null: the default of the model, or the sum of the force"
        " field charges, which has to be 0",
    )
    spin: Number | None = evaluation("spin")
    features: NumbersByName | None = evaluation("features")
    ml_region: Texts | None = Field(
        None, description="selectors of what the model describes; null: everything"
    )
    force_field: Texts | None = Field(
        None, description="XML files of the force field around it: of OpenMM, by name, or paths"
    )
    system: Path | None = Field(
        None, description="XML file of an openmm.System, in place of force_field"
    )
    nonbonded_method: Literal[
        "auto", "NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME"
    ] = Field("auto", description="of the force field; auto: PME in a box, else NoCutoff")
    nonbonded_cutoff: Number = Field(0.9, gt=0, description="cutoff of the force field [nm]")
    constraints: Literal["HBonds", "AllBonds", "none"] = Field(
        "HBonds", description="rigid bonds outside the region, water included; none: all are free"
    )
    embedding: Literal["mechanical", "electrostatic"] = Field(
        "mechanical",
        description="mechanical: charges of the region are those of the force field;"
        " electrostatic: those of the model",
    )
    charge_tolerance: Number = Field(
        0.25,
        gt=0,
        description="largest difference between the sum of the latent charges and the"
        " charge of the region [e]",
    )
    polarization: Literal["none", "mm"] = Field(
        "none", description="mm: the charges of the force field polarize the region"
    )
    conserve_induced_charge: OnOrOff = Field(
        "on", description="charges that they induce add up to zero"
    )
    mm_damping: Literal["none", "lj"] = Field(
        "none",
        description="lj: charges that induce are Gaussians as wide as their Lennard-Jones"
        " radius; none: points",
    )
    lambda_interpolate: Number | None = Field(
        None,
        ge=0,
        le=1,
        description="lambda between the force field (0) and ML/MM (1); null: ML/MM",
    )

    def __init__(self, origin: _Origin = _Origin(), /, **values: Any) -> None:
        if not isinstance(origin, _Origin):
            raise InputError(
                "RunConfig: expected settings by name, such as structure='a.pdb', got "
                f"{fields.shown(origin)}"
            )
        try:
            super().__init__(**values)
        except ValidationError as error:
            every = dict.fromkeys(_explain(details, origin) for details in error.errors())
            # Once, and not for each.
            known = ", ".join(RunConfig.model_fields)
            hint = f"; there are {known}" if any(t.endswith(_UNKNOWN) for t in every) else ""
            raise InputError(shorten(every, "; ") + hint) from None

    def __setattr__(self, name: str, value: Any) -> None:
        raise InputError(
            f"{name}: settings do not change; make new ones, such as "
            f"RunConfig(**config.model_dump() | {{{name!r}: ...}})"
        )

    @field_validator("*", mode="before")
    @classmethod
    def _is_bare(cls, value: Any, info: ValidationInfo) -> Any:
        """Plain values in place of Quantities, paths and numbers of numpy."""
        return fields.bare(value, cls.model_fields[str(info.field_name)])

    @field_validator(*_PATHS)
    @classmethod
    def _is_absolute(cls, value: Path | str | None, info: ValidationInfo) -> Path | str | None:
        """Absolute paths, so that a run can be continued from another directory."""
        if value is None:
            return None
        if "\0" in str(value):
            raise ValueError("a path cannot have this character")
        absolute = _absolute_path(str(info.field_name), str(value), Path.cwd())
        return absolute if info.field_name == "model" else Path(absolute)

    @field_validator(*_FILES)
    @classmethod
    def _are_absolute(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value and tuple(_absolute_file(name, Path.cwd()) for name in value)

    @model_validator(mode="after")
    def _intervals_fit(self) -> RunConfig:
        """Every stretch ends at a checkpoint, from which a run can continue."""
        for name in ("steps", "equilibration_steps", "trajectory_interval"):
            _check_multiple(self, name, "report_interval")
        if self.ensemble == "NPT":
            _check_multiple(self, "report_interval", "barostat_interval")
        return self

    @model_validator(mode="after")
    def _response_is_known(self) -> RunConfig:
        unknown = [name for name in self.response or () if name not in RESPONSES]
        if unknown:
            raise ValueError(
                f"response: expected some of {', '.join(RESPONSES)}, got {', '.join(unknown)}"
            )
        return self

    @model_validator(mode="after")
    def _region_is_described(self) -> RunConfig:
        check_region(self)
        return self

    @property
    def evaluation_options(self) -> EvaluationOptions:
        """How the model is computed."""
        values = {name: getattr(self, spellings(name)[1]) for name in fields.OF_EVALUATION}
        values["cudaGraphs"] = {"auto": "auto", "on": True, "off": False}[self.cuda_graphs]
        return EvaluationOptions(**values)

    def to_yaml(self, base: Path, *, omit: frozenset[str] = frozenset()) -> str:
        """This configuration as a commented file in `base` that `load` reads.

        Paths inside `base` are relative to it; fields to `omit` are comments to be filled in.
        """
        lines = ["# Paths are relative to the directory of this file."]
        for name, value in self.model_dump(mode="json").items():
            field = type(self).model_fields[name]
            lines += ["", f"# {field.description}"]
            if name in omit:
                lines.append(f"# {name}: {metavar(name)}  (required)")
                continue
            if name in _PATHS and value is not None:
                value = _relative(value, base)
            if name in _FILES and value is not None:
                value = [_relative(path, base) for path in value]
            lines.append(_yaml_line(name, json.dumps(value)))
        return "\n".join(lines) + "\n"


def load(
    file: str | os.PathLike[str] | None = None, flags: Mapping[str, Any] | None = None
) -> RunConfig:
    """Read a configuration from a file, and flags that override it; errors as of `RunConfig`.

    Args:
        file: YAML file whose paths are relative to its directory, or the directory of a run; None
            for flags alone.
        flags: values by name; paths relative to the working directory.
    """
    return RunConfig(_Origin(file, flags or {}), **_values(file, flags or {}))


def of_values(values: Mapping[str, Any], file: str | os.PathLike[str]) -> RunConfig:
    """A configuration from values that stand in `file`, whose paths are relative to its directory.

    Errors are those of `RunConfig`, with the name of the file.
    """
    origin = _Origin(file, is_of_many=True)
    return RunConfig(origin, **_absolute(values, Path(file).absolute().parent))


def draft(file: str | os.PathLike[str] | None, flags: Mapping[str, Any]) -> str:
    """The configuration as a commented file; required fields may be missing."""
    values = _values(file, flags)
    required = [name for name, field in RunConfig.model_fields.items() if field.is_required()]
    omit = frozenset(name for name in required if name not in values)
    config = RunConfig(_Origin(file, flags), **values | dict.fromkeys(omit, "-"))
    return config.to_yaml(Path.cwd(), omit=omit)


def _values(file: str | os.PathLike[str] | None, flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of file (or directory of a run) and flags, with absolute paths."""
    path = None if file is None else Path(os.path.expanduser(file))
    if path is not None and path.is_dir():
        path /= CONFIG
    base = Path.cwd() if path is None else path.absolute().parent
    given = {"output": RunConfig.model_fields["output"].default}
    given |= {} if path is None else settings_file.read(path)
    return _absolute(given, base) | _absolute(flags, Path.cwd())


def warn_of_units(config: RunConfig) -> None:
    """Warn of values that are most often in another unit."""
    for name, (low, high) in _USUAL.items():
        value = getattr(config, name)
        if not low <= value <= high:
            unit = fields.unit_of(RunConfig.model_fields[name])
            logger.warning(
                f"{name}: {value:g} {unit} is unusual ({low:g} to {high:g}); the unit is {unit}"
            )


@functools.lru_cache(maxsize=1000)  # thousands of runs share most of their settings
def _yaml_line(name: str, value: str) -> str:
    """A setting as a file has it; the value is JSON."""
    line: str = yaml.safe_dump({name: json.loads(value)}, allow_unicode=True, width=10_000)
    return line.rstrip()


def metavar(name: str) -> str:
    """How help names the value of a flag."""
    return fields.metavar(RunConfig.model_fields[name])


def _check_multiple(config: RunConfig, name: str, of: str) -> None:
    value, unit = getattr(config, name), getattr(config, of)
    if value is not None and value % unit:
        below, above = value // unit * unit, (value // unit + 1) * unit
        near = f"{above}" if below == 0 else f"{below} or {above}"
        raise ValueError(
            f"{name}: expected a multiple of {of} ({unit}), such as {near}, got {value}; or give "
            f"another {of}"
        )


def _absolute(values: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Values with absolute paths; names of models and wrong types stay as they are."""
    result = dict(values)
    for name in _PATHS:
        value = result.get(name)
        if isinstance(value, str | Path) and str(value):
            result[name] = _absolute_path(name, str(value), base)
    for name in _FILES:
        parts = fields.split(result.get(name))
        if isinstance(parts, list | tuple):
            found = (_absolute_file(p, base) if isinstance(p, str) else p for p in parts)
            result[name] = list(found)
    return result


def _absolute_path(name: str, value: str, base: Path) -> str:
    from openmm_les import catalog

    if name == "model" and value in catalog.names():
        return value
    return os.path.normpath(base / os.path.expanduser(value))


def _absolute_file(value: str, base: Path) -> str:
    """The absolute path if there is such a file, else the name of one that comes with OpenMM."""
    path = os.path.normpath(base / os.path.expanduser(value))
    return path if os.path.isfile(path) else value


def _relative(path: str, base: Path) -> str:
    return str(Path(path).relative_to(base)) if Path(path).is_relative_to(base) else path


def _explain(details: ErrorDetails, origin: _Origin) -> str:
    """One problem: where, which field, what was expected, what came."""
    if not details["loc"]:  # a check of several fields, with a message of ours
        text = str(details["ctx"]["error"])
        return text if origin.file is None else f"{origin.file}: {text}"
    name = str(details["loc"][0])[:_LONGEST_NAME]
    where = name if origin.file is None else f"{origin.file}: {name}"
    where = flag_of(name) if name in origin.flags else where
    if details["type"] == "extra_forbidden":
        return f"{where}: {_UNKNOWN}{did_you_mean(name, RunConfig.model_fields)}"
    if details["type"] == "missing" and origin.is_of_many:
        return f"{where}: missing; give it below base, or where runs differ"
    if details["type"] == "missing":
        return f"{where}: missing; give {flag_of(name)} {metavar(name)}, or {name} in a config file"
    field = RunConfig.model_fields[name]
    wanted = f"{fields.expected(field)} ({field.description})"
    return f"{where}: expected {wanted}, got {fields.shown(details['input'])}"
