"""What the readers of checkpoints share: weights by name, averages, options, dense networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les_export.checkpoints.accepted import unknown
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.named_tensors import NamedTensors, as_tensor
from openmm_les_export.checkpoints.records import invalid
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.canonical_form import State, canonical_form
from openmm_les_export.families.e3nn_weights import FIRST
from openmm_les_export.families.les_choice import LESChoice, les_from_arguments, read_with_choice
from openmm_les_export.families.nequip.accepted import EMBED, averaged, check_configuration
from openmm_les_export.options import ModelOptions

#: Configuration and tensors in a checkpoint of Lightning.
HYPER, STATE = "hyper_parameters", "state_dict"
_MODEL = "model.sole_model."
#: What the names of the network begin with.
NETWORK = _MODEL + "model.func."
#: Names in a checkpoint that are no part of the model.
_OTHERS = ("run_stage", "loss.", "train_metrics.", "val_metrics.", "test_metrics.", "ema.")
#: Buffers that may be parameters, and the options that make them so.
_TRAINABLE = {
    "bessel_weights": "bessel_trainable",
    ".scales": "per_type_energy_scales_trainable",
    ".shifts": "per_type_energy_shifts_trainable",
}


class Weights(NamedTensors):
    """Tensors of the network by name, taken one by one so that none is left unread.

    With them come the configuration and the arguments of the les package.
    """

    def __init__(
        self, opened: ModelFile, options: Mapping[str, Any], les: Mapping[str, Any]
    ) -> None:
        trained = [ending for ending, option in _TRAINABLE.items() if options.get(option)]
        network, alien = {}, []
        for name, value in opened[STATE].items():
            if name.startswith(NETWORK):
                key = name[len(NETWORK) :].replace(".conv.tp_scatter.tp.", ".conv.tp.")
                network[key] = value
            elif not name.startswith(_OTHERS) and name != _MODEL + "model._empty":
                alien.append(name)
        if alien:
            raise unknown(alien[0], f"tensor of {opened.kind}")
        super().__init__(network, opened.kind)
        self.hyper: Mapping[str, Any] = opened[HYPER]
        self.les = les
        self._found = {name: tensor for name, tensor in self._found.items() if tensor.numel()}
        self._replace(averaged(self.hyper), opened[STATE], trained)

    def _replace(
        self, expected: bool | None, state: Mapping[str, Any], trained: Sequence[str]
    ) -> None:
        """Puts the averages in the place of the weights: they stand in order, without names."""
        averages = [name for name in state if name.startswith("ema.ema_weight_")]
        if expected is None:
            expected = bool(averages)
        if not expected:
            return
        extra = state.get("ema._extra_state")
        if not isinstance(extra, Mapping) or extra.get("is_holding_ema_weights") is not True:
            raise ModelFileError(
                "model: ema: expected averaged weights (is_holding_ema_weights), got none or those "
                "of the last step; save the checkpoint again after a validation"
            )
        order = [f"ema.ema_weight_{i}" for i in range(len(averages))]
        numbered = [as_tensor(name, state.get(name)) for name in order]
        names = [name for name in self._found if _is_trained(name, trained)]
        shapes = [self._found[name].shape for name in names], [each.shape for each in numbered]
        differ = [i for i, (a, b) in enumerate(itertools.zip_longest(*shapes)) if a != b]
        if differ:
            first = names[differ[0]] if differ[0] < len(names) else order[differ[0]]
            raise ModelFileError(
                f"model: ema: expected averages of {len(names)} weights in their order, got "
                f"{len(numbered)}; the first that has no counterpart of its shape is {first}"
            )
        self._found.update(zip(names, numbered, strict=True))

    def has(self, name: str) -> bool:
        """Whether there is a module of this name."""
        return any(key.startswith(f"{name}.") for key in self._found)

    def per_type(self, name: str, types: int, default: float) -> torch.Tensor:
        """A number for each element: all of them, one for all, or none."""
        if name not in self._found:
            return torch.full((types,), default, dtype=torch.float64)
        tensor = self._found.pop(name).to(torch.float64).flatten()
        if tensor.numel() not in (1, types):
            raise invalid(name, f"one number or one for each of {types} elements", tensor.numel())
        return tensor.expand(types)

    def couplings(self) -> dict[str, torch.Tensor]:
        """Wigner 3j symbols that the file keeps, by the end of their names; and no masks."""
        found = {}
        for name in list(self._found):
            last = name.rpartition(".")[2]
            if last.startswith("_w3j_"):
                found[last[len("_w3j_") :]] = self._found.pop(name).to(torch.float64)
            elif last == "output_mask" and bool((self._found[name] == 1).all()):
                del self._found[name]
        return found


def read_checkpoint(
    opened: ModelFile,
    options: ModelOptions,
    network: Callable[[Options, Weights, State], dict[str, Any]],
    package: str,
    first: str,
) -> CanonicalModel:
    """The canonical form of a checkpoint.

    The weights of a network go into the state, and it returns its hyper-parameters; it is of a
    package, whose version is noted, and its precision is that of a first tensor.
    """

    model, arguments = check_configuration(opened[HYPER])

    def read(choice: LESChoice) -> CanonicalModel:
        les, origins = les_from_arguments(arguments, choice)
        weights = Weights(opened, {**(model.get(EMBED) or {}), **model}, arguments)
        dtype = weights.dtype(first)
        elements = Options(model).elements("type_names")
        shifts, scales = (f"per_type_energy_scale_shift.{name}" for name in ("shifts", "scales"))
        state: State = {
            "reference_energies": weights.per_type(shifts, len(elements), 0.0),
            "energy_scales": weights.per_type(scales, len(elements), 1.0),
        }
        hyper = {"elements": elements, **network(Options(model), weights, state)}
        weights.check_all_taken()
        return canonical_form(
            opened,
            hyper=hyper,
            state=state,
            les=les,
            vintage=f"{package} {versions(opened[HYPER]).get(package, 'of unknown version')}",
            dtype=dtype,
            origins=origins,
        )

    return read_with_choice(read, options)


def radial_basis(
    options: Options, basis: Options, weights: Weights, state: State, name: str, factor: float
) -> dict[str, Any]:
    """Hyper-parameters of the Bessel functions in a module; their roots go into the state.

    The functions have options of their own, and a factor.
    """
    cutoff = options.positive("r_max")
    inverse = float(weights.take("edge_norm._rmax_recip", ()))
    if not math.isclose(1.0 / cutoff, inverse, rel_tol=1e-6):
        raise invalid("r_max", "one cutoff", f"{cutoff} and {1 / inverse}")
    number = basis.integer("num_bessels", 8, 1)
    # sinc(x w) w = sin(pi w r / r_max) r_max / (pi r)
    roots = weights.take(f"{name}.bessel_weights", (1, number)).flatten()
    state["bessel_frequencies"] = roots * math.pi / cutoff
    return {
        "cutoff": cutoff,
        "num_bessel": number,
        "bessel_prefactor": factor * cutoff / math.pi,
        "cutoff_order": basis.integer("polynomial_cutoff_p", 6, 2),
    }


def dense_maps(
    weights: Weights, name: str, inputs: int, hidden: int, outputs: int
) -> list[torch.Tensor]:
    """Maps of a network with silu between them, and nequip's gains."""
    maps: list[torch.Tensor] = []
    for k in range(hidden + 1):
        width = outputs if k == hidden else -1
        weight = weights.take(f"{name}.{2 * k}.weight", (inputs, width))
        gain = math.sqrt(2.0) if k else 1.0
        maps.append(weight * (gain / math.sqrt(inputs)))
        inputs = weight.shape[1]
    return maps


def side_by_side(networks: Sequence[list[torch.Tensor]]) -> list[torch.Tensor]:
    """One network with the outputs of several of the same depth and inputs."""
    firsts, *others = zip(*networks, strict=True)
    diagonal: Callable[..., torch.Tensor] = torch.block_diag
    return [torch.cat(firsts, 1), *(diagonal(*maps) for maps in others)]


def version(hyper: Mapping[str, Any], package: str) -> tuple[int, ...]:
    """The first two numbers of a version that was used in the training."""
    text = str(versions(hyper).get(package))
    numbers = text.split(".")[:2]
    if len(numbers) != 2 or not all(part.isdecimal() for part in numbers):
        raise ModelFileError(
            f"model: info_dict.versions: expected the version of {package} in the training, got "
            f"{text}; the order of weights depends on it"
        )
    return tuple(int(part) for part in numbers)


def symbols_version(hyper: Mapping[str, Any]) -> tuple[int, ...]:
    """That of e3nn, on which signs of Wigner 3j symbols depend."""
    found = version(hyper, "e3nn")
    if found < FIRST:
        raise UnsupportedModelError(
            f"model: e3nn: expected a training with version {'.'.join(map(str, FIRST))} or later, "
            f"got {versions(hyper)['e3nn']}; its Wigner 3j symbols are not known"
        )
    return found


def versions(hyper: Mapping[str, Any]) -> Mapping[str, Any]:
    """Versions of the packages that were used in the training, by name."""
    information = hyper.get("info_dict")
    versions = information.get("versions") if isinstance(information, Mapping) else None
    return versions if isinstance(versions, Mapping) else {}


def _is_trained(name: str, trained: Sequence[str]) -> bool:
    """Whether a tensor of the network is a parameter, or a buffer."""
    if name.endswith(tuple(_TRAINABLE)):
        return name.endswith(tuple(trained))
    buffers = ("output_mask", "_rmax_recip", ".w3j", ".change_of_basis_2e")
    return not name.endswith(buffers) and "_w3j_" not in name
