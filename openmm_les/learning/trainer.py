"""mace-torch's trainer with the LES energy of this package, and what its own options do not offer.

mace-torch is imported when a function is called: nothing else here needs it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openmm_les.errors import InputError
from openmm_les.files.reading import Kind, boundary
from openmm_les.learning.losses import NetChargeLoss
from openmm_les.learning.stand_in import CONSTANTS, register

_STARTING_MODEL = Kind(
    InputError,
    "--foundation_model",
    "--foundation_model: expected a model that mace-torch wrote, got {file} ({reason})",
)
#: What newer versions of mace-torch store in a model, with the values that change nothing.
_OF_NEWER = {
    "les_output_scale": 1.0,
    **dict.fromkeys(
        ("use_dipoles", "use_quads", "use_induced_charges", "use_induced_dipoles"), False
    ),
}


class Training:
    """One training: the arguments of ``mace_run_train``, and what is added to them."""

    def __init__(self, arguments: Sequence[str], *, net_charge_weight: float = 0.0) -> None:
        """Read the arguments as mace-torch does, with those of a ``--config`` file.

        Args:
            arguments: see ``mace_run_train --help``; the default of ``--model`` is MACELES.
            net_charge_weight: of `net_charge_penalty` in the loss [1/e^2].

        Raises:
            InputError: mace-torch is not installed, or the penalty is asked for with a model that
                has no latent charges.
            SystemExit: mace-torch does not accept the arguments; it has printed why.
        """
        if find_spec("mace") is None:
            raise InputError(
                "train: expected mace-torch, which is not installed: "
                "`pip install 'openmm-les[mace]'`"
            )
        #: Whether the LES energy is that of this package.
        self.is_ours = register()
        self._code: Any = import_module("mace.cli.run_train")
        parser = self._code.tools.build_default_arg_parser()
        parser.prog = "openmm-les train --"
        parser.set_defaults(model="MACELES")
        self.options: argparse.Namespace = parser.parse_args(list(arguments))
        self.net_charge_weight = net_charge_weight
        if net_charge_weight and self.options.model != "MACELES":
            raise InputError(
                f"--net-charge-weight: expected a model with latent charges, --model MACELES, got "
                f"{self.options.model}"
            )

    def take_constants(self) -> dict[str, Any]:
        """Take the LES constants of the file that training starts from, where none are named.

        mace-torch takes the weights from it, but not these.

        Returns:
            What was taken and differs from the defaults of ``les_arguments``.

        Raises:
            InputError: there is no such file, its model has no latent charges, or it has what the
                installed mace-torch drops.
        """
        start = self.options.foundation_model
        if self.options.model != "MACELES" or start is None:
            return {}
        if not Path(start).is_file():  # what mace-torch downloads by name has no latent charges
            raise InputError(
                f"--foundation_model: expected the file of a MACE-LES model, got {start}, which is "
                "no file; leave it out, or name another kind of model by --model"
            )
        with boundary(start, _STARTING_MODEL):
            model = import_module("torch").load(start, map_location="cpu", weights_only=False)
        if not hasattr(model, "les_readouts"):
            raise InputError(
                f"--foundation_model: expected a MACE-LES model, got {start}, which has no latent "
                "charges; leave it out, or name another kind of model by --model"
            )
        self._check_vintage(model, start)
        found = _constants_of(model.les)
        named = self.options.les_arguments or {}
        found = {name: value for name, value in found.items() if name not in named}
        self.options.les_arguments = named | found
        return {name: value for name, value in found.items() if value != CONSTANTS.get(name)}

    def _check_vintage(self, model: Any, start: str) -> None:
        """Refuse a model with parts that the installed mace-torch does not know."""
        constructor = import_module("mace.modules.extensions").MACELES.__init__
        dropped = [
            name
            for name, idle in _OF_NEWER.items()
            if getattr(model, name, idle) != idle and name not in constructor.__code__.co_names
        ]
        if dropped:
            raise InputError(
                f"--foundation_model: {start} has {', '.join(dropped)}, which the installed "
                "mace-torch leaves out, so that it would train another model; install the "
                "mace-torch that wrote it"
            )

    def run(self) -> None:
        """Train, and write what mace-torch writes."""
        code, weight = self._code, self.net_charge_weight
        before = {name: getattr(code, name) for name in ("get_loss_fn", "get_swa")}
        logging.getLogger().handlers.clear()  # the trainer brings its own
        if weight:
            code.get_loss_fn = _penalised(code.get_loss_fn, weight)
            code.get_swa = _penalised_stage_two(code.get_swa, weight)
        try:
            code.run(self.options)
        finally:
            for name, function in before.items():
                setattr(code, name, function)


def _constants_of(les: Any) -> dict[str, Any]:
    """``les_arguments`` of a model, ours or one of the les package."""
    found = {name: getattr(les.ewald, name) for name in ("sigma", "dl", "norm_factor")}
    found["remove_self_interaction"] = les.ewald.remove_self_interaction
    found |= {name: getattr(les.bec, name) for name in ("remove_mean", "epsilon_factor")}
    if getattr(les.ewald, "is_periodic", None) is not None:
        found |= {name: getattr(les.ewald, name) for name in ("is_periodic", "N_max")}
    return found


def _penalised(make: Callable[..., Any], weight: float) -> Callable[..., NetChargeLoss]:
    @wraps(make)
    def get_loss_fn(*arguments: Any, **options: Any) -> NetChargeLoss:
        return NetChargeLoss(make(*arguments, **options), weight)

    return get_loss_fn


def _penalised_stage_two(make: Callable[..., Any], weight: float) -> Callable[..., Any]:
    """mace-torch's stage two has a loss of its own."""

    @wraps(make)
    def get_swa(*arguments: Any, **options: Any) -> Any:
        stage, others = make(*arguments, **options)
        stage.loss_fn = NetChargeLoss(stage.loss_fn, weight)
        return stage, others

    return get_swa
