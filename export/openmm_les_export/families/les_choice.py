"""LES parameters that a checkpoint does not hold, and that only the user knows.

Checkpoints of NequIP-LES state the options of their training, but neither the prefactor nor whether
self-interaction was removed: these were what the les package had at the time. It switched from
keeping self-interaction to removing it in May 2025 and changed its prefactor in April 2026.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from openmm_les.errors import InputError
from openmm_les.files.writing import user_path
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.families.les_parameters import MODEL_FILE, truncation
from openmm_les_export.options import ModelOptions

if TYPE_CHECKING:
    from openmm_les.artifact.canonical import CanonicalModel

#: What the les package took as 1 / (2 epsilon_0) [eV A]: until April 2026, and since.
PREFACTORS = (90.0474, 90.4756)
#: Where a parameter comes from that a configuration leaves out.
DEFAULT = "default of the les package"
#: Of a bound among arguments. Only later versions of the package do what they say.
_UNSURE = "options of the training, taken at their word: older versions of les ignored them"
_STATES: dict[str | None, bool | None] = {"removed": True, "kept": False, None: None}
#: Names of options, as people know them.
NORM_FACTOR, SELF_INTERACTION = "--norm-factor", "--self-interaction"
#: What files may not hold: its name for people, and how they say it.
_OPTIONS = {
    "prefactor": ("norm factor", f"{NORM_FACTOR} {PREFACTORS[0]}|{PREFACTORS[1]}"),
    "remove_self_interaction": ("self-interaction", f"{SELF_INTERACTION} removed|kept"),
}


@dataclass(frozen=True)
class LESChoice:
    """What the user says of the training, as far as it was said."""

    prefactor: float | None = None  #: [eV A]
    remove_self_interaction: bool | None = None
    #: Where each of them comes from, by name.
    origins: Mapping[str, str] = field(default_factory=dict)


def les_choice(norm_factor: float | None, self_interaction: str | None) -> LESChoice:
    """From options to a choice."""
    number = isinstance(norm_factor, int | float) and not isinstance(norm_factor, bool)
    if norm_factor is not None and not (number and 0 < norm_factor < math.inf):
        raise InputError(
            f"norm factor: expected a positive number [eV A], such as {PREFACTORS[0]} or "
            f"{PREFACTORS[1]}, got {norm_factor!r}"
        )
    if self_interaction not in _STATES:
        raise InputError(
            f"self-interaction: expected 'removed' or 'kept', got {self_interaction!r}"
        )
    prefactor = None if norm_factor is None else float(norm_factor)
    given = {
        "prefactor": (NORM_FACTOR, norm_factor),
        "remove_self_interaction": (SELF_INTERACTION, self_interaction),
    }
    origins = {name: option for name, (option, value) in given.items() if value is not None}
    return LESChoice(prefactor, _STATES[self_interaction], origins)


def read_with_choice(
    read: Callable[[LESChoice], CanonicalModel],
    options: ModelOptions,
    prefactors: Sequence[float | None] = PREFACTORS,
) -> CanonicalModel:
    """A model whose file lacks LES parameters, which the user gives or has determined.

    The latter chooses among the prefactors; None stands for that of the file.
    """
    choice = les_choice(options.norm_factor, options.self_interaction)
    if options.calibrate is not None:
        from openmm_les_export.calibration import calibrate

        choice = calibrate(read, user_path(options.calibrate), choice, prefactors)
    return read(choice)


def les_from_arguments(
    arguments: Mapping[str, Any], choice: LESChoice, prefix: str = "les_args."
) -> tuple[dict[str, float | bool], dict[str, str]]:
    """LES parameters, and where each one comes from.

    Some are among the arguments of the les package in the file, whose names get the prefix in
    messages; the user's choice is for those that are not.
    """
    options = Options(arguments, prefix)
    les: dict[str, float | bool] = {
        "sigma": options.positive("sigma", 1.0),
        "dl": options.positive("dl", 2.0),
        "bec_remove_mean": options.flag("remove_mean", True),
        "bec_epsilon_factor": options.positive("epsilon_factor", 1.0),
    }
    origins = {
        parameter: MODEL_FILE if parameter.removeprefix("bec_") in arguments else DEFAULT
        for parameter in les
    }
    les |= (truncated := truncation(arguments, prefix))
    origins |= dict.fromkeys(truncated, MODEL_FILE)
    if "n_max" in truncated:
        origins["n_max"] = _UNSURE if "N_max" in arguments else f"{_UNSURE}; {DEFAULT}"
    chosen = {
        "prefactor": ("norm_factor", choice.prefactor),
        "remove_self_interaction": ("remove_self_interaction", choice.remove_self_interaction),
    }
    missing = {}
    for parameter, (name, given) in chosen.items():
        if name in arguments and given is not None:
            raise InputError(
                f"{choice.origins[parameter]}: the file holds its own {name}, "
                f"{arguments[name]!r}; leave the option out"
            )
        if given is not None:
            les[parameter], origins[parameter] = given, choice.origins[parameter]
        elif name in arguments:
            read = options.positive if parameter == "prefactor" else options.flag
            les[parameter], origins[parameter] = read(name), MODEL_FILE
        else:
            missing[parameter] = _OPTIONS[parameter]
    if missing:
        labels, flags = (" and ".join(entry[i] for entry in missing.values()) for i in range(2))
        raise InputError(
            f"{labels}: the file does not hold the {' and '.join(missing)} of its training; say "
            f"with {flags} what they were, or have them found with --calibrate FILE, structures "
            "with the energies of the training"
        )
    return les, origins
