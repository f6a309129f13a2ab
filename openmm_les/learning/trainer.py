"""mace-torch's trainer with the LES energy of this package, and what its own options do not offer.

mace-torch is imported when a function is called: nothing else here needs it.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openmm_les.errors import InputError
from openmm_les.files.reading import Kind, boundary
from openmm_les.learning.losses import NetChargeLoss
from openmm_les.learning.stand_in import CONSTANTS, Les, register

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
            InputError: mace-torch is not installed, its version has no MACE-LES, there is no GPU
                for ``--device cuda``, ``--les_arguments`` are not accepted, or the penalty is no
                number, or asked for with a model that has no latent charges.
            SystemExit: mace-torch does not accept the arguments; it has printed why.
        """
        spec = find_spec("mace")
        if spec is None or spec.origin is None or find_spec("mace.modules.extensions") is None:
            raise InputError(
                "train: expected mace-torch 0.3.16 or newer, which is not installed: "
                "`pip install 'openmm-les[mace]'`"
            )
        if not math.isfinite(net_charge_weight):
            raise InputError(
                f"--net-charge-weight: expected a finite number, got {net_charge_weight}"
            )
        if any(argument.startswith("--net-charge-weight") for argument in arguments):
            raise InputError(
                "--net-charge-weight: expected before `--`, which the arguments of mace-torch "
                "follow, got it after"
            )
        #: Whether the LES energy is that of this package.
        self.is_ours = register()
        self._code: Any = import_module("mace.cli.run_train")
        parser = self._code.tools.build_default_arg_parser()
        parser.prog = "openmm-les train --"
        parser.usage = "openmm-les train [--net-charge-weight W] -- ARGUMENTS of mace_run_train"
        parser.set_defaults(model="MACELES")
        self.options: argparse.Namespace = parser.parse_args(list(arguments))
        self.net_charge_weight = net_charge_weight
        if net_charge_weight and self.options.model != "MACELES":
            raise InputError(
                f"--net-charge-weight: expected a model with latent charges, --model MACELES, got "
                f"{self.options.model}"
            )
        if self.options.model == "MACELES" and self.is_ours:
            Les(self.options.les_arguments)
        if self.options.device == "cuda" and not import_module("torch").cuda.is_available():
            raise InputError("--device: expected one of this machine, such as cpu, got cuda")

    def take_constants(self) -> dict[str, Any]:
        """Take the LES constants of the file that training starts from, where none are named.

        mace-torch takes the weights from it, but not these.

        Returns:
            What was taken and differs from the defaults of ``les_arguments``.

        Raises:
            InputError: there is no such file, it holds no model or one without latent charges, or
                one with what the installed mace-torch drops or cannot take.
        """
        start = self.options.foundation_model
        if self.options.model != "MACELES" or start is None:
            return {}
        if not Path(start).is_file():  # what mace-torch downloads by name has no latent charges
            raise InputError(
                f"--foundation_model: expected the file of a MACE-LES model, got {start}, which is "
                "no file; leave it out, or name another kind of model by --model"
            )
        torch = import_module("torch")
        with boundary(start, _STARTING_MODEL), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an artifact, which the next lines refuse
            model = torch.load(start, map_location="cpu", weights_only=False)
        if not hasattr(model, "les_readouts"):
            if isinstance(model, torch.jit.ScriptModule):
                what = "is an exported model; give the .model file that it was exported from"
            elif isinstance(model, dict):
                what = "is a checkpoint; give the .model file that the training wrote"
            else:
                what = "has no latent charges; leave it out, or name another kind by --model"
            raise InputError(
                f"--foundation_model: expected a MACE-LES model, got {start}, which {what}"
            )
        self._check_vintage(model, start)
        cutoff, dtype = float(model.r_max), self.options.default_dtype
        if float(torch.tensor(cutoff, dtype=getattr(torch, dtype))) != cutoff:
            raise InputError(
                f"--default_dtype: expected float64, in which {start} was trained, got {dtype}: "
                f"its cutoff {cutoff} A is no number in {dtype}"
            )
        found = _constants_of(model.les)
        named = self.options.les_arguments or {}
        found = {name: value for name, value in found.items() if name not in named}
        self.options.les_arguments = {"use_atomwise": False} | named | found
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
        """Train, and write what mace-torch writes.

        Raises:
            InputError: a file cannot be read or written, mace-torch refuses an argument, the new
                model cannot take the latent charges of the one that training starts from, or
                training ended without numbers.
        """
        code, weight, made = self._code, self.net_charge_weight, list[Any]()
        replaced = {"configure_model": _configured(code.configure_model, made)}
        if weight:
            replaced["get_loss_fn"] = _penalised(code.get_loss_fn, weight)
            replaced["get_swa"] = _penalised_stage_two(code.get_swa, weight)
        before = {name: getattr(code, name) for name in replaced}
        logging.getLogger().handlers.clear()  # the trainer brings its own
        try:
            for name, function in replaced.items():
                setattr(code, name, function)
            code.run(self.options)
        except (OSError, AssertionError) as error:  # by which mace-torch refuses arguments
            if not str(error):
                raise
            raise InputError(f"train: {error}") from error
        finally:
            for name, function in before.items():
                setattr(code, name, function)
        if not all(bool(p.isfinite().all()) for model in made for p in model.parameters()):
            options = self.options
            raise InputError(
                f"train: expected energies and forces under the names of --energy_key and "
                f"--forces_key ({options.energy_key}, {options.forces_key}) and a learning rate "
                f"that suits the data, got a model whose weights are not numbers; do not use "
                f"{options.name}.model"
            )


def _constants_of(les: Any) -> dict[str, Any]:
    """``les_arguments`` of a model, ours or one of the les package."""
    found = {name: getattr(les.ewald, name) for name in ("sigma", "dl", "norm_factor")}
    found["remove_self_interaction"] = les.ewald.remove_self_interaction
    found |= {name: getattr(les.bec, name) for name in ("remove_mean", "epsilon_factor")}
    if getattr(les.ewald, "is_periodic", None) is not None:
        found |= {name: getattr(les.ewald, name) for name in ("is_periodic", "N_max")}
    return found


def _configured(make: Callable[..., Any], made: list[Any]) -> Callable[..., Any]:
    """Keeps the model, and gives it of its start what some versions of mace-torch leave out.

    These are the latent charges, before 0.3.16 and with several heads, and in 0.3.16 the energies
    of isolated atoms that the arguments ask for, in whose place are those of the start.
    """

    @wraps(make)
    def configure_model(
        options: Any,
        loader: Any,
        atomic_energies: Any,
        start: Any = None,
        *others: Any,
        **more: Any,
    ) -> Any:
        model, output = make(options, loader, atomic_energies, start, *others, **more)
        made.append(model)
        if start is not None and hasattr(model, "les_readouts"):
            weights = start.les_readouts.state_dict()
            own = model.les_readouts.state_dict()
            if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
                raise InputError(
                    "--foundation_model: expected latent charges of the same number of heads in "
                    "the new model, got others; train with one head, without --heads and "
                    "--pt_train_file"
                )
            model.les_readouts.load_state_dict(weights)
            energies = model.atomic_energies_fn.atomic_energies
            asked = import_module("torch").as_tensor(atomic_energies, dtype=energies.dtype)
            energies.copy_(asked.reshape(energies.shape))
        return model, output

    return configure_model


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
