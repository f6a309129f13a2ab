"""The stages, and how one of them runs."""

import contextlib
import importlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One part of the check.

    Attributes:
        name: as on the command line.
        function: ``module:function`` in this package; takes a `Visit`.
        seconds: how long it may take on a GPU.
    """

    name: str
    function: str
    seconds: float


#: In the order of their worth, 7 minutes in all.
STAGES = (
    Stage("machine", "machine:versions_and_ceilings", 25),
    Stage("contexts", "contexts:probes", 25),
    Stage("correctness", "correctness:against_references", 90),
    Stage("engine", "engine:decisions", 40),
    Stage("graphs", "correctness:graphs", 50),
    Stage("platforms", "platforms:embeddings_and_precisions", 60),
    Stage("drift", "platforms:drift", 25),
    Stage("torchforce", "correctness:torchforce_module", 30),
    Stage("timings", "timings:steps", 60),
    Stage("triton", "timings:triton_products", 15),
)


class Visit:
    """What a stage gets: the device, what was carried, and where to say what it finds.

    Attributes:
        device: torch device.
        on_gpu: whether it is one of CUDA.
        carried: see `carried.Carried`.
    """

    def __init__(self, folder: Path, device: str, found: Path) -> None:
        from check.carried import Carried

        self.device = device
        self.on_gpu = device.startswith("cuda")
        self.carried = Carried(folder)
        self._found = found

    def say(self, name: str, value: Any) -> None:
        """Write a result at once, so that it stays if the process does not."""
        with self._found.open("a") as stream:
            stream.write(json.dumps([name, value], default=lambda x: x.item()) + "\n")

    @contextlib.contextmanager
    def piece(self, name: str) -> Iterator[dict[str, Any]]:
        """A part of a stage, whose failure is told and does not end the others."""
        values: dict[str, Any] = {}
        try:
            yield values
        except Exception as error:  # whatever it is, it is what one came to find
            lines = str(error).strip().splitlines() or ["no message"]
            values["failed"] = f"{type(error).__name__}: {lines[-1]}"[:300]
        self.say(name, values)


def run_stage(name: str, folder: Path, device: str, found: Path) -> None:
    """Run one stage in this process."""
    import torch  # before OpenMM, so that its plug-ins find torch's libraries

    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    stage = next(stage for stage in STAGES if stage.name == name)
    module, function = stage.function.split(":")
    getattr(importlib.import_module(f"check.{module}"), function)(Visit(folder, device, found))
