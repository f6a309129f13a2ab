"""Evaluation of a module from numpy arrays to numpy arrays; on a GPU as a CUDA graph.

A graph launches hundreds of kernels at once, with the shapes and addresses of the recording:
modules for a GPU do the same work for every structure, and read nothing back.

Torch code as it is written runs first. Compiled code, kernels in Triton and graphs take its place
only after they have given the same numbers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmm_les.arrays import FloatArray
from openmm_les.errors import SimulationError, one_line
from openmm_les.evaluation.engines.arithmetic import as_written
from openmm_les.evaluation.engines.clocks import Clock, DeviceClock, ProcessorClock
from openmm_les.evaluation.engines.inputs import Inputs
from openmm_les.evaluation.engines.packing import Layout, compare
from openmm_les.evaluation.engines.runners import Module
from openmm_les.processes.interrupts import stoppable
from openmm_les.processes.threads import Threads
from openmm_les.units import ANGSTROM_AND_EV, Units

logger = logging.getLogger(__name__)

#: Calls before the recording, in which libraries set themselves up.
_WARM_UP = 3
#: Results are compared for two structures, of which one is larger by this factor.
_STRETCH = 1.002
#: Raises if what evaluates the present input does not give what the module gives.
Check = Callable[[Callable[[], Tensor]], None]
#: Torch records one graph at a time.
_recording = threading.Lock()


class Evaluator:
    """Evaluates one module after another for the same atoms.

    On a CPU it uses the fastest number of threads; on a GPU a stream of its own, one copy to the
    device and one back through pinned memory. After a first, ordinary call the module is recorded,
    and the graph compared with ordinary calls. With `graphs` ``'auto'`` a module that cannot be
    recorded runs without (a warning), with True it is an error. `extra_inputs` are shapes of what
    it takes besides positions and cell, and it returns `rows` latent numbers for each of the first
    `num_latent` atoms, None for all, and zeros for others. On a GPU a module of single precision
    returns its forces in float32, and positions but the `exact` ones go there in float32 too.

    Attributes:
        dropped: why a ``"replacement"`` or a ``"graph"`` is not used, which holds for later modules
            too.
    """

    def __init__(
        self,
        num_atoms: int,
        device: torch.device,
        *,
        graphs: bool | str = "auto",
        extra_inputs: Sequence[tuple[int, ...]] = (),
        rows: int = 1,
        num_latent: int | None = None,
        single: bool = False,
        exact: Sequence[int] | None = None,
    ) -> None:
        on_gpu = device.type == "cuda"
        self._graphs = graphs if on_gpu else False
        self._threads = Threads(device)
        self._stream: torch.cuda.Stream | None = None
        self._host_output: Tensor | None = None
        self._layout = Layout(
            num_atoms, num_atoms if num_latent is None else num_latent, rows, single and on_gpu
        )
        if on_gpu:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]
            self._host_output = torch.zeros(
                self._layout.size,
                dtype=torch.float32 if self._layout.single else torch.float64,
                pin_memory=True,
            )
        self._clock: Clock = DeviceClock(self._stream) if self._stream else ProcessorClock()
        self._inputs = Inputs(num_atoms, device, extra_inputs, exact if on_gpu else None)
        self._module: Module | None = None
        self._replacement: Callable[[], Module] | None = None
        self._wants_graph = True
        self._is_settled = False
        self._graph: tuple[torch.cuda.CUDAGraph, Tensor] | None = None
        self._what = ""
        self.dropped: dict[str, str] = {}

    @property
    def threads(self) -> int | None:
        """Torch's threads in an evaluation on a CPU, once they have been chosen."""
        return self._threads.chosen

    @property
    def seconds(self) -> float:
        """How long the last evaluation took by the `Clock` of its device [s]."""
        return self._clock.seconds

    def load(
        self,
        module: Module,
        replacement: Callable[[], Module] | None = None,
        *,
        graph: bool = True,
        threads: int | None = None,
        what: str = "engine",
    ) -> None:
        """Evaluate this module from now on, in place of the last one and its graph.

        Args:
            module: torch code as it is written.
            replacement: makes what computes the same faster, as messages call it `what`.
            graph: whether a graph is wanted, where `graphs` allows one.
            threads: the number of torch's threads to start with; None: measured.
        """
        self._module, self._graph = module, None
        self._replacement = None if "replacement" in self.dropped else replacement
        self._wants_graph, self._is_settled, self._what = graph, False, what
        self._threads.start_with(threads)

    def __call__(
        self, *inputs: FloatArray, units: Units = ANGSTROM_AND_EV, with_latents: bool = True
    ) -> tuple[Any, ...]:
        """Evaluate the module for positions, lattice vectors in rows [A], and extra inputs.

        Returns energy [eV], forces (n, 3), latents (n,) or (n, rows), dE/dstrain (3, 3) [eV], the
        energy of the charges [eV] where the module returns it, and status. Positions and forces are
        in `units`. A GPU keeps the latents to itself if they are not asked for: they are then zero.
        """
        own: Any = contextlib.nullcontext()
        if self._stream is not None:
            own = torch.cuda.stream(self._stream)
        # Inference mode also saves the book-keeping for views, a tenth of a small step.
        with torch.inference_mode(), own:
            self._clock.begin()
            self._inputs.send(*inputs, length=units.length)
            result = self._compute(with_latents or not self._is_settled)
            status = int(result[0])
            # Otherwise the buffers are too small, and another module will be loaded.
            if status == 0 and not self._is_settled:
                result = self._settle(result)
        parts = self._layout.unpack(result)
        latents = np.zeros((self._layout.rows, self._layout.positions))
        latents[:, : self._layout.atoms] = parts["charges"].reshape(self._layout.rows, -1)
        return (
            float(result[1]),
            units.force * parts["forces"].reshape(-1, 3),
            latents.T if self._layout.rows > 1 else latents[0],
            parts["strain derivative"].reshape(3, 3),
            *parts["energy of the charges"].tolist(),
            status,
        )

    def _compute(self, with_latents: bool = True) -> FloatArray:
        """The present input, by the graph or else the module."""
        if self._graph is None:
            return self._to_host(self._threads.run(self._evaluate), with_latents)
        graph, output = self._graph
        graph.replay()
        return self._to_host(output, with_latents)

    def _evaluate(self) -> Tensor:
        assert self._module is not None  # our own code loads one first
        with stoppable(), as_written():
            return self._layout.pack(self._module(*self._inputs.tensors()))

    def _to_host(self, output: Tensor, with_latents: bool = True) -> FloatArray:
        """What `Layout.pack` returned, in float64, in memory of its own."""
        if self._host_output is None:
            self._clock.end()
            return self._layout.numbers(output.numpy())
        size = len(output) if with_latents else self._layout.size_of_forces
        host = self._host_output[:size]
        host.copy_(output[:size], non_blocking=True)
        self._clock.end()
        return self._layout.numbers(host.numpy(), with_latents)

    def _settle(self, first: FloatArray) -> FloatArray:
        """Go over to the replacement and to a graph, each if it gives what the module gives.

        Returns the present input's result by what is used from now on, so that a run that continues
        here gets the bits of one that was not interrupted; `first` is that of the module.
        """
        self._is_settled = True
        if self._replacement is None and not (self._graphs and self._wants_graph):
            return first
        # Ordinary calls come first, so that nothing is compared with itself.
        inputs = self._inputs.numbers
        present = inputs.clone()
        inputs.mul_(_STRETCH)
        expected = [first, self._to_host(self._evaluate())]

        def check(evaluate: Callable[[], Tensor]) -> None:
            inputs.copy_(present)
            for result in expected:
                got = self._to_host(evaluate())
                compare(self._layout.unpack(result), self._layout.unpack(got))
                inputs.mul_(_STRETCH)

        if self._replacement is not None:
            # What makes it holds whole models, on a GPU in its memory.
            make, self._replacement = self._replacement, None
            self._replace(make, check)
        if self._graphs and self._wants_graph:
            self._record(check)
        inputs.copy_(present)
        return self._compute()

    def _replace(self, make: Callable[[], Module], check: Check) -> None:
        before = self._module
        try:
            self._module = make()
            check(self._evaluate)
        except Exception as error:  # whatever a compiler or a version of torch may raise
            self._module = before
            reason = self.dropped["replacement"] = one_line(_reason(error))
            logger.warning("%s does not work here, using TorchScript: %s", self._what, reason)

    def _record(self, check: Check) -> None:
        """Use a graph from now on, unless `check` of it raises."""
        try:
            with _recording:
                self._graph = self._capture(check)
        except RuntimeError as error:  # torch has no narrower class for what CUDA refuses
            # Ending a failed capture fails too, with a less useful message than its cause.
            reason = _reason(error.__context__ or error)
            if self._graphs is True:
                raise SimulationError(
                    f"cudaGraphs=True: this model cannot be recorded as a CUDA graph ({reason}); "
                    "use cudaGraphs='auto' to go on without"
                ) from error
            self._graphs = False
            self.dropped["graph"] = reason
            logger.warning("cudaGraphs='auto': goes on without CUDA graphs (%s)", reason)
        # The graph has its own copy of the memory that the ordinary calls used.
        torch.cuda.empty_cache()

    def _capture(self, check: Check) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        for _ in range(_WARM_UP):
            self._evaluate()
        with _refuse_waiting():
            self._evaluate()
        # Other threads, such as OpenMM's, may allocate memory meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            output = self._evaluate()

        def replay() -> Tensor:
            graph.replay()
            return output

        check(replay)
        return graph, output


@contextlib.contextmanager
def _refuse_waiting() -> Iterator[None]:
    """Raise a RuntimeError where the host waits for the GPU, which cannot be recorded.

    Torch cannot free memory any more after a recording that fails, so what has not passed here is
    not recorded. The setting is one of the process.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _reason(error: BaseException) -> str:
    """The line of an error's text that says what went wrong."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    # TorchScript prints the place before this line, CUDA how to debug after it.
    first = next(iter(lines), type(error).__name__)
    return next((line for line in lines if "Error: " in line), first)
