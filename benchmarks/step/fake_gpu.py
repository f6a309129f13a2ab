"""What a step does on a GPU that is not there: kernels, traffic and arithmetic, by operation.

Fake tensors have a shape, a type and a device, but no data. Every operation of ATen counts as one
kernel, apart from those that only look at memory in another way or make room. It reads and writes
each of its elements once, of a gather those that it takes. A product of matrices takes 2 m n k
floating-point operations, a Fourier transform 5 n log2 n, a sum one an element read, and all others
one an element written; so does the conversion from or to float64, which runs at the rate of
float64 arithmetic. Our own operators are as many kernels as they launch, and read and write each of
their tensors once. Of their arithmetic that of messages and product bases counts, as if every slot
for a neighbour were used; what pair search, geometry and weights of the Ewald sum compute is left
out.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from openmm_les.evaluation.engines.arithmetic import as_written

_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view", "detach"}
#: Products of matrices, and which argument is the left one.
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "addmm": 1, "baddbmm": 1}
_GATHERS = {"index_select", "index", "gather", "embedding"}
_MOVES = {"copy_", "_to_copy", "clone", "cat", "stack", "index_copy", "index_copy_", "fill_"}
_MOVES |= {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "zero_", "arange"}
_MOVES |= {"new_zeros", "new_ones", "new_full", "constant_pad_nd", "repeat", "masked_fill_"}
_MOVES |= {"index_put_", "lift_fresh", "flip", "sort", "searchsorted", "scalar_tensor", *_GATHERS}
_SUMS = {"sum", "prod", "mean", "amax", "amin", "max", "min", "all", "any", "cumsum", "linalg_norm"}
#: Kernels of our own operators, from their arguments.
_OWN: dict[str, Callable[..., int]] = {
    "search_neighbors": lambda *_: 3,
    "search_cells": lambda *args: 7 + args[2],
    "reciprocal_weights": lambda *_: 1,
    "ewald_phases": lambda *_: 1,
    "pair_geometry": lambda *_: 1,
    "pair_gradients": lambda *_: 2,
    "product_basis": lambda *_: 1,
    "product_gradients": lambda *_: 1,
    "conclude": lambda *_: 2,
    "message_sums": lambda *args: len(args[5]),  # one for each path
    "message_gradients": lambda *args: 2 * len(args[7]) + 2,  # and zeros to add to
}


def _of_sums(slots: int, weights: Tensor, degrees: Sequence[int]) -> int:
    """Radial factors R of every path, and their products with its senders and angular factors."""
    paths, width, channels = weights.shape
    pairs = zip(degrees[::2], degrees[1::2], strict=True)
    products = sum((2 * node + 1) * (2 * (2 * out + 1) + 1) for node, out in pairs)
    return slots * channels * (2 * paths * width + products)


def _of_gradients(slots: int, weights: Tensor, degrees: Sequence[int]) -> int:
    """R once and its gradient for each slot, then R and the sums again as seen from the sender."""
    paths, width, channels = weights.shape
    pairs = zip(degrees[::2], degrees[1::2], strict=True)
    products = sum((2 * node + 1) * (4 * (2 * out + 1) + 3) for node, out in pairs)
    of_slots = slots * channels * (4 * paths * width + products)
    swapped = [d for pair in zip(degrees[1::2], degrees[::2], strict=True) for d in pair]
    return of_slots + _of_sums(slots, weights, swapped)


def _of_products(sums: Tensor, forms: Sequence[Tensor]) -> int:
    """Products of two rows, both matrices of forms, and values from the Jacobian."""
    sizes = [form.shape[2:] for form in forms[:2]]
    one = sum(2 * rows * products + products + 2 * rows for rows, products in sizes)
    return one * math.prod(sums.shape[1:])


def _of_pull_back(outputs: int, rows: int, channels: int, atoms: int) -> int:
    """The Jacobian, without the row of ones, times the gradient of each output."""
    return (2 * outputs + 1) * (rows - 1) * channels * atoms


#: Their arithmetic in float32, of those that have much of it.
_ARITHMETIC: dict[str, Callable[..., int]] = {
    "message_sums": lambda *args: _of_sums(args[3].numel(), args[5], args[6]),
    "message_gradients": lambda *args: _of_gradients(args[4].numel(), args[7], args[8]),
    "product_basis": lambda *args: _of_products(args[0], args[1]),
    "product_gradients": lambda *args: _of_pull_back(*args[1].shape),
}
#: Counts of a step: launches, bytes, and operations in float32 and float64.
Counts = Counter[str]


class Tally(TorchDispatchMode):
    """Counts what is called in it.

    Attributes:
        by_operation: counts by name and shapes of the arguments.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_operation: dict[str, Counts] = {}

    @property
    def total(self) -> Counts:
        return sum(self.by_operation.values(), Counter())

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if function.namespace != "prim" and not function.is_view and name not in _ALLOCATIONS:
            read = _tensors((args, kwargs))
            shapes = " ".join(f"{str(t.dtype)[6:]}{list(t.shape)}" for t in read[:4])
            counts = self.by_operation.setdefault(f"{name} {shapes}", Counter())
            own = _OWN.get(name)
            counts["launches"] += own(*args) if own else 1
            counts["bytes"] += _traffic(function, name, args, kwargs or {}, _tensors(results))
            if own:
                counts["float32"] += _ARITHMETIC.get(name, lambda *_: 0)(*args)
                return results
            counts[_type(read + _tensors(results))] += _arithmetic(
                name, args, read, _tensors(results)
            )
        return results


def tally(step: Callable[..., Any], module: Any, shapes: Sequence[tuple[int, ...]]) -> Tally:
    """Run a step of a scripted module, whose tensors are fake afterwards, on float64 inputs."""
    with FakeTensorMode():
        for part in module.modules():
            for name, buffer in list(part.named_buffers(recurse=False)):
                fake = torch.empty_strided(
                    buffer.shape, buffer.stride(), dtype=buffer.dtype, device="cuda"
                )
                setattr(part, name, fake)
        inputs = [torch.empty(shape, dtype=torch.float64, device="cuda") for shape in shapes]
        with as_written(), torch.no_grad(), Tally() as counted:
            step(*inputs)
    return counted


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Elements in memory: an expanded one counts once."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(n for n, stride in pairs if stride != 0 or n == 0)


def _bytes(tensor: Tensor) -> int:
    return _size(tensor) * tensor.element_size()


def _traffic(function: Any, name: str, args: Any, kwargs: Any, results: list[Tensor]) -> int:
    """Bytes read and written."""
    written = sum(map(_bytes, results))
    overwritten: list[Tensor] = []  # without a look at what was there
    for place, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name, args[place] if place < len(args) else None)
            if argument.is_out or name in ("copy_", "fill_", "zero_"):
                overwritten += _tensors(value)
    read = [t for t in _tensors((args, kwargs)) if not any(t is other for other in overwritten)]
    if name in _GATHERS:  # a gather reads what it takes
        read = read[1:]
        written *= 2
    if name.startswith("index_") and name.endswith("_"):  # and a scatter touches what it adds to
        changed = sum(map(_bytes, read[1:]))
        return 2 * changed
    return written + sum(map(_bytes, read))


def _type(tensors: list[Tensor]) -> str:
    types = {t.dtype for t in tensors}
    if types & {torch.float64, torch.complex128}:
        return "float64"
    return "float32" if types & {torch.float32, torch.complex64} else "integer"


def _arithmetic(name: str, args: Any, read: list[Tensor], results: list[Tensor]) -> int:
    """Floating-point operations."""
    size = sum(map(_size, results))
    product = name.removesuffix("_")  # also what adds to a matrix that is there
    if product in _PRODUCTS:
        return 2 * int(results[0].numel()) * int(args[_PRODUCTS[product]].shape[-1])
    if name.startswith("_fft"):
        n = max(map(_size, read + results))
        return int(5 * n * math.log2(max(n, 2)))
    if name in _MOVES:
        types = {t.dtype for t in read + results if t.is_floating_point()}
        return size if len(types) > 1 else 0
    if name in _SUMS:
        return _size(read[0])
    return size
