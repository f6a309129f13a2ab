"""A module on its device, from numpy arrays to numpy arrays; on a GPU, as a CUDA graph.

An evaluation is some hundreds of kernels, and for small systems the host takes longer to launch
them than a GPU to run them. A CUDA graph launches all of them at once. It repeats what the module
did when it was recorded, with the same shapes and addresses: modules for a GPU do the same work for
every structure, and read nothing back.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from openmm_les.arrays import FloatArray
from openmm_les.errors import SimulationError
from openmm_les.evaluation.engines.arithmetic import as_written
from openmm_les.processes.threads import Threads

logger = logging.getLogger(__name__)

#: From positions and cell, and whatever else it was made for, to what `pack` takes.
Module = Callable[..., tuple[torch.Tensor, ...]]

#: Calls before the recording, in which libraries set themselves up.
_WARM_UP = 3
#: A graph is compared with its module for two structures, of which one is larger by this factor.
_STRETCH = 1.002
#: What rounding may change, of the largest number of its kind. It is half the digits of single
#: precision; stretching changes forces by more than ten times that.
_ROUNDING = 3e-4
#: And where all numbers are small [eV, eV/A, e].
_ALMOST_ZERO = 1e-6
#: Torch records one graph at a time.
_recording = threading.Lock()


def pack(results: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """All that a `SpecializedModel` returns in one array, so that it is copied at once.

    Args:
        results: energy [], forces [n, 3], charges [n], dE/dstrain [3, 3], perhaps the energy of the
            charges [], and status [].

    Returns:
        Status, energy, dE/dstrain, forces, charges, and perhaps the energy of the charges, float64,
        shape [11 + 4 n] or one more.
    """
    energy, forces, charges, virial, *of_charges, status = results
    return torch.cat(
        [
            status.to(torch.float64).view(1),
            energy.view(1),
            virial.reshape(-1),
            forces.reshape(-1),
            charges,
            *[part.view(1) for part in of_charges],
        ]
    )


class Evaluator:
    """Evaluates one module after another for the same atoms.

    On a CPU it uses as many of torch's threads as are fastest. On a GPU it works on a stream of its
    own, with one copy to the device and one back, through pinned memory. The first call of a module
    is an ordinary one; if that succeeds, the module is recorded, and the graph is compared with
    ordinary calls before it is used.

    Args:
        num_atoms: number of atoms n.
        device: where the modules are.
        graphs: ``'auto'`` (graphs on a GPU; what cannot be recorded runs without, and a warning
            says why), True (what cannot be recorded is an error) or False.
        further: shapes of what the module takes besides positions and cell.
    """

    def __init__(
        self,
        num_atoms: int,
        device: torch.device,
        graphs: bool | str = "auto",
        further: Sequence[tuple[int, ...]] = (),
    ) -> None:
        on_gpu = device.type == "cuda"
        self._graphs = graphs if on_gpu else False
        self._num_atoms = num_atoms
        self._threads = Threads(device)
        self._stream: torch.cuda.Stream | None = None
        self._done: torch.cuda.Event | None = None
        if on_gpu:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
        shapes = [(num_atoms, 3), (3, 3), *further]
        ends = np.cumsum([math.prod(shape) for shape in shapes]).tolist()
        self._host_input = _buffer(ends[-1], pinned=on_gpu)
        self._host_output = _buffer(12 + 4 * num_atoms, pinned=on_gpu)
        self._input = self._host_input.to(device)
        self._inputs = [
            self._input[end - math.prod(shape) : end].view(shape)
            for end, shape in zip(ends, shapes, strict=True)
        ]
        self._module: Module | None = None
        self._graph: tuple[torch.cuda.CUDAGraph, torch.Tensor] | None = None

    def load(self, module: Module) -> None:
        """Evaluate this module from now on; a graph of the former one is given up."""
        self._module = module
        self._graph = None

    def __call__(self, *inputs: FloatArray) -> tuple[Any, ...]:
        """Evaluate the module.

        Args:
            *inputs: positions, shape (n, 3) [A]; cell with lattice vectors in rows, shape (3, 3)
                [A]; and what else the module takes.

        Returns:
            What the module returns: energy [eV], forces (n, 3) [eV/A], charges (n,) [e], dE/dstrain
            (3, 3) [eV], the energy of the charges [eV] where it returns that, and status.

        Raises:
            SimulationError: graphs are required and the module cannot be recorded.
        """
        np.concatenate([values.ravel() for values in inputs], out=self._host_input.numpy())
        # Not only without gradients: without the book-keeping for views, a tenth of a small step.
        with torch.inference_mode(), self._own_stream():
            if self._stream is not None:
                self._input.copy_(self._host_input, non_blocking=True)
            if self._graph is None:
                output = self._threads.run(self._evaluate)
            else:
                graph, output = self._graph
                graph.replay()
            result = self._to_host(output)
            status = int(result[0])
            if self._graphs and self._graph is None and status == 0:
                self._record(result)
        n = self._num_atoms
        virial, forces = result[2:11].reshape(3, 3), result[11 : 11 + 3 * n].reshape(n, 3)
        charges, of_charges = result[11 + 3 * n : 11 + 4 * n], result[11 + 4 * n :].tolist()
        return float(result[1]), forces, charges, virial, *of_charges, status

    @contextlib.contextmanager
    def _own_stream(self) -> Iterator[None]:
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield

    def _evaluate(self) -> torch.Tensor:
        assert self._module is not None  # our own code loads one first
        with as_written():
            return pack(self._module(*self._inputs))

    def _to_host(self, output: torch.Tensor) -> FloatArray:
        if self._done is None:
            return np.asarray(output.numpy())
        host = self._host_output[: len(output)]
        host.copy_(output, non_blocking=True)
        # By an event: waiting for the stream is an error while another thread is in `_unwaiting`.
        self._done.record(self._stream)  # type: ignore[no-untyped-call, unused-ignore]
        self._done.synchronize()  # type: ignore[no-untyped-call, unused-ignore]
        return np.array(host.numpy())

    def _record(self, first: FloatArray) -> None:
        """Go on with a graph of the module; `first` is what it gave for the present input."""
        try:
            with _recording:
                self._graph = self._capture(first)
        except RuntimeError as error:  # torch has no narrower class for what CUDA refuses
            reason = _reason(error)
            if self._graphs is True:
                raise SimulationError(
                    f"cudaGraphs=True: this model cannot be recorded as a CUDA graph ({reason}); "
                    "use cudaGraphs='auto' to go on without"
                ) from error
            self._graphs = False
            logger.warning("cudaGraphs='auto': goes on without CUDA graphs (%s)", reason)
        # What the ordinary calls used, the graph has a second time.
        torch.cuda.empty_cache()

    def _capture(self, first: FloatArray) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Records the module and compares. The input is not what it was afterwards."""
        graph = torch.cuda.CUDAGraph()
        # Ordinary calls come first, so that nothing is compared with itself.
        present = self._input.clone()
        self._input.mul_(_STRETCH)
        expected = [first, self._to_host(self._evaluate())]
        for _ in range(_WARM_UP):
            self._evaluate()
        with _unwaiting():
            self._evaluate()
        # Other threads, such as OpenMM's, may allocate memory meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            output = self._evaluate()
        self._input.copy_(present)
        for result in expected:
            graph.replay()
            compare(result, self._to_host(output))
            self._input.mul_(_STRETCH)
        return graph, output


@contextlib.contextmanager
def _unwaiting() -> Iterator[None]:
    """Raise a RuntimeError where the host waits for the GPU, which no graph can hold.

    A recording that fails leaves torch's allocator unable to free memory for the rest of the
    process, so it is begun only with what has passed here. The setting is one of the process.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def compare(expected: FloatArray, got: FloatArray) -> None:
    """Compare two results of `pack`; not a number equals itself.

    Raises:
        RuntimeError: they differ by more than rounding.
    """
    n = (len(expected) - 11) // 4
    pieces = {"status": (0, 1), "energy": (1, 2), "strain derivative": (2, 11)}
    pieces |= {"forces": (11, 11 + 3 * n), "charges": (11 + 3 * n, 11 + 4 * n)}
    if len(expected) > 11 + 4 * n:
        pieces["energy of the charges"] = (11 + 4 * n, 12 + 4 * n)
    for name, (first, last) in pieces.items():
        one, other = expected[first:last], got[first:last]
        allowed = _ALMOST_ZERO + _ROUNDING * np.abs(np.nan_to_num(one)).max()
        if not np.allclose(other, one, rtol=0.0, atol=allowed, equal_nan=True):
            raise RuntimeError(
                f"it gives other {name} than the module, different by up to "
                f"{np.abs(one - other).max():.3g}"
            )


def _reason(error: RuntimeError) -> str:
    """The line of an error's text that says what went wrong."""
    # Ending a capture that failed fails too, and says less than what made it fail.
    lines = [line for line in str(error.__context__ or error).splitlines() if line.strip()]
    # Before it TorchScript prints where; after it CUDA prints how to debug.
    return next((line for line in lines if "Error: " in line), next(iter(lines), "no message"))


def _buffer(size: int, *, pinned: bool) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.float64, pin_memory=pinned)
