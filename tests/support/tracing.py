"""Watches every operation of a module; also on a GPU that is not there.

Fake tensors have a shape, a type and a device, but no data; no GPU is needed for those on CUDA.
With them a scripted module takes the paths that it takes on a GPU, and whatever depends on a number
in a tensor fails.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from openmm_les.evaluation.engines.arithmetic import as_written

#: Operations for which the host waits for a GPU, since their result, its shape or their success is
#: a number on it.
WAITING = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "allclose",
    "nonzero",
    "argwhere",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "bincount",
    "multinomial",
    "_linalg_det",
    "_linalg_eigh",
    "_linalg_solve_ex",
    "_linalg_svd",
    "linalg_cholesky_ex",
    "linalg_inv_ex",
    "linalg_lu_factor_ex",
    "linalg_qr",
}
#: The same, in the language of TorchScript.
WAITING_IN_SCRIPT = {"Int", "Float", "Bool", "IntImplicit", "FloatImplicit", "ScalarImplicit"}
WAITING_IN_SCRIPT |= WAITING | {"tolist", "cpu", "cuda", "unique", "_unique"}
#: Operations that only make room.
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach"}


class NotCapturableError(AssertionError):
    """An operation that a CUDA graph cannot hold, or that would differ between structures."""


@dataclass(frozen=True)
class Operation:
    """One operation: its name, and its arguments with shapes in place of tensors."""

    name: str
    arguments: str
    launches: bool


class Watch(TorchDispatchMode):
    """Logs operations, and raises at those that cannot be captured.

    Args:
        device: type of the device that everything has to be on.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.operations: list[Operation] = []
        self.fault: str | None = None

    def __exit__(self, kind, error, traceback):
        super().__exit__(kind, error, traceback)
        if self.fault is not None:  # of what is raised inside of a script the text is lost
            raise NotCapturableError(self.fault) from error

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":  # questions that cost nothing, such as the device
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in WAITING or func is torch.ops.aten.repeat_interleave.Tensor:
            self._found(f"{func} waits for the device")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self._found(f"{func} with a mask waits for the device")
        result = func(*args, **kwargs)
        for tensor in tree_leaves((args, kwargs, result)):
            if isinstance(tensor, torch.Tensor) and tensor.device.type != self.device:
                self._found(f"{func} on {tensor.device}: expected {self.device}")
        arguments = str(tree_map(_description, (args, kwargs)))
        launches = not func.is_view and name not in _ALLOCATIONS
        self.operations.append(Operation(str(func), arguments, launches))
        return result

    def _found(self, fault: str) -> None:
        self.fault = self.fault or fault
        raise NotCapturableError(fault)


def _description(leaf):
    if isinstance(leaf, torch.Tensor):
        return (str(leaf.dtype), tuple(leaf.shape), leaf.stride())
    return str(leaf)


def trace(module, *inputs) -> tuple[list[Operation], tuple[torch.Tensor, ...]]:
    """What a module does on a CPU, and what it returns.

    Raises:
        NotCapturableError: something that a CUDA graph cannot hold.
    """
    with Watch("cpu") as watch, torch.no_grad():
        results = module(*inputs)
    return watch.operations, results


def trace_on_fake_gpu(
    function, *shapes, module=None, dtype=torch.float64, settings=as_written
) -> tuple[list[Operation], tuple[torch.Tensor, ...]]:
    """What a scripted module or function does on a GPU, and what it returns there.

    Args:
        function: called twice with tensors of the given shapes.
        shapes: of its arguments.
        module: scripted module that it calls, if it is none; its tensors are fake afterwards.
        dtype: of its arguments.
        settings: context manager of the settings of torch that it is called with, by default
            those of production.

    Raises:
        NotCapturableError: something that a CUDA graph cannot hold.
        Exception: any other, in a script, if something depends on data or devices are mixed.
    """
    if module is None and isinstance(function, torch.nn.Module):
        module = function
    with FakeTensorMode():
        for part in () if module is None else module.modules():
            for name, buffer in list(part.named_buffers(recurse=False)):
                setattr(part, name, _fake(buffer.shape, buffer.dtype, buffer.stride()))
        inputs = [_fake(shape, dtype) for shape in shapes]
        with settings(), torch.no_grad():
            for _ in range(2):  # TorchScript optimises in the second call what it saw in the first
                with Watch("cuda") as watch:
                    results = function(*inputs)
    return watch.operations, results


@contextlib.contextmanager
def fusion_without_gpu():
    """Lets TorchScript make kernels for a GPU that is not there: it then runs without them."""
    torch._C._jit_texpr_set_fallback_allowed(True)
    try:
        yield
    finally:
        torch._C._jit_texpr_set_fallback_allowed(False)


def fused_groups() -> int:
    """How many groups of operations were fused in what TorchScript executed last."""
    return str(torch.jit.last_executed_optimized_graph()).count("prim::TensorExprGroup")


def _fake(shape, dtype, strides=None) -> torch.Tensor:
    if strides is None:
        return torch.empty(shape, dtype=dtype, device="cuda")
    return torch.empty_strided(shape, strides, dtype=dtype, device="cuda")


def launches(operations) -> int:
    """How many operations do work, rather than look at a tensor in another way."""
    return sum(operation.launches for operation in operations)


def by_name(operations) -> Counter[str]:
    """How often each operation occurs."""
    return Counter(operation.name for operation in operations)


def waiting_nodes(graph, inside=()):
    """Nodes of a TorchScript graph that read a tensor on the host, and what they are inside of."""
    for node in graph.nodes():
        name = node.kind().removeprefix("aten::")
        tensors = [i for i in node.inputs() if isinstance(i.type(), torch.TensorType)]
        if node.kind().startswith("aten::") and name in WAITING_IN_SCRIPT and tensors:
            yield node, inside
        for block in node.blocks():
            yield from waiting_nodes(block, (*inside, node))
