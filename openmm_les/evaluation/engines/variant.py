"""The ways to compute a system's module, as plain values, and which of them was chosen.

Imports nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from openmm_les.errors import InputError
from openmm_les.networks.kernels import KERNELS, Kernels

#: Runners that a file may name. Another one is a function, which only Python code may name.
RUNNERS = ("torchscript", "compile")
#: Pair slots up to which few kernels may be faster, on a CPU and on a GPU.
_FEW_PAIRS = 2**14, 2**17
#: Pair slots from which there may be several blocks.
_SEVERAL_BLOCKS = 2**12
#: Elements of the largest temporary tensors that are tried beside the default, on a CPU and a GPU.
_BLOCKS = (2**16, 2**20), (2**21, 2**23, 2**25)
#: Why a candidate is not used that gives the right numbers.
NOT_FASTER = "not faster"


@dataclass(frozen=True)
class Variant:
    """One way to compute the module of a system; all ways give the same within rounding.

    Raises:
        InputError: a value that cannot be.
    """

    #: What runs the module: ``'torchscript'``, ``'compile'`` (torch.compile), or a function of
    #: Python as ``'package.module:function'``, see `engines.runners`.
    runner: str = "torchscript"
    few_kernels: bool = False  #: more arithmetic in fewer kernels, for small systems
    block_elements: int | None = None  #: of the largest temporary tensors; None: the device's own
    #: What computes the heavy parts: ``'torch'``, ``'triton'`` on a GPU, ``'numba'`` on a CPU
    kernels: Kernels = "torch"
    graph: bool = False  #: replayed as a CUDA graph
    threads: int | None = None  #: of torch on a CPU, to start with; None: measured in the process

    def __post_init__(self) -> None:
        for name in ("few_kernels", "graph"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(
                    f"variant: {name}: expected True or False, got {getattr(self, name)!r}"
                )
        for name in ("block_elements", "threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InputError(
                    f"variant: {name}: expected an integer of at least 1 or None, got {value!r}"
                )
        if self.kernels not in KERNELS:
            raise InputError(
                f"variant: kernels: expected {', '.join(map(repr, KERNELS))}, got {self.kernels!r}"
            )
        if self.runner not in RUNNERS and ":" not in str(self.runner):
            raise InputError(
                f"variant: runner: expected {', '.join(map(repr, RUNNERS))} or "
                f"'package.module:function', got {self.runner!r}"
            )

    @property
    def name(self) -> str:
        """A short name for log lines, such as ``few kernels, graph``; no two variants share one."""
        code = [
            "" if self.runner == "torchscript" else self.runner,
            "" if self.kernels == "torch" else self.kernels,
            "few kernels" if self.few_kernels else "",
            f"blocks of {self.block_elements}" if self.block_elements else "",
        ]
        parts = list(filter(None, code)) or ["plain"]
        if self.graph:
            parts.append("graph")
        if self.threads is not None:
            parts.append(f"{self.threads} thread" + "s" * (self.threads > 1))
        return ", ".join(parts)

    def on(self, kind: str) -> Variant:
        """The same as far as a kind of device allows, ``'cpu'`` or ``'cuda'``."""
        on_gpu = kind == "cuda"
        return replace(
            self,
            kernels=self.kernels if self.kernels == ("triton" if on_gpu else "numba") else "torch",
            graph=self.graph and on_gpu,
            threads=self.threads if kind == "cpu" else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Values that JSON and pickles of saved Systems hold; `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Variant:
        """A variant from values of a file, which may name only our own runners.

        Raises:
            InputError: unknown or missing names, values that cannot be, another runner.
        """
        names = [each.name for each in fields(cls)]
        if not isinstance(values, Mapping) or sorted(values) != sorted(names):
            raise InputError(f"variant: expected values for {', '.join(names)}, got {values!r}")
        if values["runner"] not in RUNNERS:
            raise InputError(
                f"variant: runner: expected {' or '.join(map(repr, RUNNERS))}, "
                f"got {values['runner']!r}"
            )
        return cls(**values)


@dataclass(frozen=True)
class Trial:
    """What came of one candidate."""

    variant: Variant  #: with the number of threads that was fastest, on a CPU
    seconds: float | None = None  #: least time of an evaluation [s]; None: not measured
    #: Why it is not used, such as ``gives other forces than ...``; empty if it may be.
    reason: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str):
            raise InputError(f"trial: reason: expected a text, got {self.reason!r}")
        if self.seconds is not None and not (type(self.seconds) is float and self.seconds >= 0.0):
            raise InputError(f"trial: seconds: expected a time or None, got {self.seconds!r}")

    def __str__(self) -> str:
        parts = [
            self.variant.name,
            "" if self.seconds is None else f"{1e3 * self.seconds:.3g} ms",
            f"({self.reason})" if self.reason not in ("", NOT_FASTER) else "",
        ]
        return " ".join(filter(None, parts))


@dataclass(frozen=True)
class Decision:
    """The fastest variant for one model, system and machine, and what was measured."""

    variant: Variant
    trials: Sequence[Trial]  #: of all candidates; the plain torch code is the first one
    #: What it holds for: artifact, device, versions, size class and the like, all of which a system
    #: must have in common with it.
    system: Mapping[str, Any] = field(default_factory=dict)
    made: str = ""  #: when, as in ISO 8601, UTC

    @property
    def times(self) -> dict[str, float]:
        """Least time of an evaluation [s] of all that gave the right numbers, by name."""
        return {each.variant.name: each.seconds for each in self.trials if each.seconds is not None}

    @property
    def dropped(self) -> dict[str, str]:
        """Why candidates are not used, by name."""
        return {each.variant.name: each.reason for each in self.trials if each.reason}

    @property
    def ranked(self) -> list[Trial]:
        """All trials, with that of the fastest variant first and those without a time last."""
        return sorted(
            self.trials, key=lambda each: (each.variant != self.variant, each.seconds or math.inf)
        )

    def __str__(self) -> str:
        """One line, such as ``few kernels 5.1 ms; plain 9.8 ms; compile (did not finish ...)``."""
        return "; ".join(map(str, self.ranked))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Decision:
        """A decision from values of a file.

        Raises:
            InputError: anything that `to_json` does not write.
        """
        try:
            trials = tuple(
                Trial(Variant.from_json(each["variant"]), each["seconds"], each["reason"])
                for each in values["trials"]
            )
            variant = Variant.from_json(values["variant"])
            decision = cls(variant, trials, values["system"], values["made"])
        except (KeyError, TypeError) as error:
            raise InputError(f"decision: expected values of a Decision, got {values!r}") from error
        if not any(each.variant == variant and not each.reason for each in trials):
            raise InputError(f"decision: expected a variant of its trials, got {variant}")
        return decision


def candidates(
    plain: Variant,
    *,
    pairs: int,
    on_gpu: bool,
    graphs: bool | str,
    kernels: Kernels,
) -> list[Variant]:
    """Variants that may be the fastest for a system, in the order of their promise.

    Numbers of threads are none of them: they are measured in each process, see `Threads`.
    torch.compile is slower on a CPU, and so it is not among them there.

    Args:
        plain: torch code, with which all are compared; it comes first.
        pairs: pair slots of the system, atoms times neighbours.
        on_gpu: whether the device has CUDA graphs.
        graphs: the option `cudaGraphs`.
        kernels: those that the device has beside torch code; ``'torch'`` if it has none.
    """
    found = [plain]
    other = replace(plain, few_kernels=not plain.few_kernels)
    if kernels != "torch":
        found.append(replace(plain, kernels=kernels))
        if on_gpu or pairs <= _FEW_PAIRS[on_gpu]:
            found.append(replace(other, kernels=kernels))
    if pairs <= _FEW_PAIRS[on_gpu]:
        found.append(other)
    if pairs >= _SEVERAL_BLOCKS:
        found += [replace(plain, block_elements=size) for size in _BLOCKS[on_gpu]]
    if not on_gpu:
        return found
    if graphs == "auto":
        found += [replace(each, graph=False) for each in found[:2]]
    return [*found, replace(plain, runner="compile")]
