"""The product basis with its Jacobian in one kernel, and the pull-back in another.

A program has one channel of atoms of one species. Its forms are two matrices, for products of two
rows of A~ = [1, A] of the same and of different parity, since a row of J = K (A~ (x) A~) needs but
one of them (`openmm_les.networks.blocks.product_basis`). Products of rows, and what becomes of
them, exist in registers alone; J is written as [outputs, rows of A~, C, N].
"""

from math import isqrt
from typing import List, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.functional import pad

from openmm_les.networks.blocks.angular import parity_ordered_degrees
from openmm_les.networks.blocks.product_basis import ProductBasis

#: Products that are multiplied with the forms at a time.
_PRODUCTS = 16
#: Fewest and most atoms of a program, and columns of the pull-back.
_ATOMS, _COLUMNS = (16, 64), 256


@triton.jit
def _load_rows(sums, row, column, stride, on):  # type: ignore[no-untyped-def]
    """Rows of A~ at some columns of A."""
    place = sums + (row - 1).to(tl.int64)[:, None] * stride + column[None, :]
    values = tl.load(place, mask=(row > 0)[:, None] & on[None, :], other=0.0)
    return tl.where((row == 0)[:, None], 1.0, values)


@triton.jit
def _apply_forms(  # type: ignore[no-untyped-def]
    sums,
    forms,
    products,
    targets,
    jacobian,
    column,
    stride,
    on,
    values,
    num_rows: tl.constexpr,
    rows: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
    atoms: tl.constexpr,
    precision: tl.constexpr,
):
    """Writes the part of J that one matrix of forms gives, and adds its values to the outputs."""
    line = tl.arange(0, rows)
    result = tl.zeros([rows, atoms], tl.float32)
    for start in range(0, size, block):
        product = start + tl.arange(0, block)
        first = _load_rows(sums, tl.load(products + product), column, stride, on)
        second = _load_rows(sums, tl.load(products + size + product), column, stride, on)
        form = tl.load(forms + line[:, None] * size + product[None, :])
        result = tl.dot(form, first * second, result, input_precision=precision)
    target = tl.load(targets + line)
    place = jacobian + target.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(place, result, mask=(target >= 0)[:, None] & on[None, :])
    own = _load_rows(sums, tl.maximum(target, 0) % num_rows, column, stride, on) * result
    totals = ()
    for output in tl.static_range(len(values)):
        mine = (target >= output * num_rows) & (target < (output + 1) * num_rows)
        total = values[output] + tl.sum(tl.where(mine[:, None], own, 0.0), 0)
        totals = totals + (total,)  # type: ignore[assignment]
    return totals


@triton.jit(do_not_specialize=["num_atoms", "channels"])
def _product_kernel(  # type: ignore[no-untyped-def]
    sums,
    same,
    cross,
    same_products,
    cross_products,
    same_targets,
    cross_targets,
    out,
    jacobian,
    counts,
    num_atoms,
    channels,
    outputs: tl.constexpr,
    num_rows: tl.constexpr,
    same_rows: tl.constexpr,
    same_size: tl.constexpr,
    cross_rows: tl.constexpr,
    cross_size: tl.constexpr,
    block: tl.constexpr,
    atoms: tl.constexpr,
    precision: tl.constexpr,
):
    """Values and J of one channel of a block of atoms of one species."""
    channel = tl.program_id(1)
    begin = 0
    end = 0
    species = 0
    atoms_before = 0
    blocks_before = 0
    for z in tl.static_range(len(counts)):
        own = tl.program_id(0) - blocks_before
        mine = (own >= 0) & (own * atoms < counts[z])
        species = tl.where(mine, z, species)
        begin = tl.where(mine, atoms_before + own * atoms, begin)
        end = tl.where(mine, atoms_before + counts[z], end)
        atoms_before += counts[z]
        blocks_before += tl.cdiv(counts[z], atoms)
    atom = begin + tl.arange(0, atoms)
    on = atom < end
    column = channel.to(tl.int64) * num_atoms + atom
    stride = channels.to(tl.int64) * num_atoms
    form = species * channels + channel
    values = ()
    for _ in tl.static_range(outputs):
        values = values + (tl.zeros([atoms], tl.float32),)  # type: ignore[assignment]
    values = _apply_forms(
        sums,
        same + form.to(tl.int64) * same_rows * same_size,
        same_products,
        same_targets,
        jacobian,
        column,
        stride,
        on,
        values,
        num_rows,
        same_rows,
        same_size,
        block,
        atoms,
        precision,
    )
    values = _apply_forms(
        sums,
        cross + form.to(tl.int64) * cross_rows * cross_size,
        cross_products,
        cross_targets,
        jacobian,
        column,
        stride,
        on,
        values,
        num_rows,
        cross_rows,
        cross_size,
        block,
        atoms,
        precision,
    )
    for output in tl.static_range(outputs):
        tl.store(out + output * stride + column, values[output], mask=on)


@triton.jit(do_not_specialize=["columns"])
def _pull_back_kernel(  # type: ignore[no-untyped-def]
    grad, jacobian, out, columns, num_rows, outputs: tl.constexpr, block: tl.constexpr
):
    """dE/dA of a block of columns, atoms and channels alike."""
    column = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    on = column < columns
    stride = columns.to(tl.int64)
    grads = ()
    for output in tl.static_range(outputs):
        value = tl.load(grad + output * stride + column, mask=on, other=0.0)
        grads = grads + (value,)  # type: ignore[assignment]
    for row in range(1, num_rows):
        total = tl.zeros([block], tl.float32)
        for output in tl.static_range(outputs):
            place = jacobian + (output * num_rows + row) * stride + column
            total += grads[output] * tl.load(place, mask=on, other=0.0)
        tl.store(out + (row - 1) * stride + column, 3.0 * total, mask=on)


@torch.library.custom_op("openmm_les::product_basis", mutates_args=())
def product_basis(
    sums: Tensor, forms: List[Tensor], counts: List[int], outputs: int
) -> Tuple[Tensor, Tensor]:
    """B [outputs, C, N] and J [outputs, rows of A~, C, N] of A [S, C, N].

    Forms are those of `FusedProductBasis`; for the others see `ProductBasis`.
    """
    sums = sums.contiguous()
    same, cross, *tables = forms
    components, channels, n = sums.shape
    results = _new_products(sums, outputs)
    atoms = min(max(triton.next_power_of_2(max(counts)), _ATOMS[0]), _ATOMS[1])
    blocks = sum(triton.cdiv(count, atoms) for count in counts)
    with torch.cuda.device_of(sums):
        _product_kernel[(blocks, channels)](
            sums,
            same,
            cross,
            *tables,
            *results,
            tuple(counts),
            n,
            channels,
            outputs,
            1 + components,
            *same.shape[2:],
            *cross.shape[2:],
            _PRODUCTS,
            atoms,
            "tf32x3",
        )
    return results


def _new_products(sums: Tensor, outputs: int) -> Tuple[Tensor, Tensor]:
    components, channels, n = sums.shape
    out = sums.new_empty([outputs, channels, n])
    return out, sums.new_empty([outputs, 1 + components, channels, n])


@product_basis.register_fake
def _(sums, forms, counts, outputs):  # type: ignore[no-untyped-def]
    return _new_products(sums, outputs)


@torch.library.custom_op("openmm_les::product_gradients", mutates_args=())
def product_gradients(grad: Tensor, jacobian: Tensor) -> Tensor:
    """dE/dA [S, C, N] from dE/dB [outputs, C, N] and J."""
    outputs, rows, channels, n = jacobian.shape
    out = _new_sums(jacobian)
    columns = channels * n
    with torch.cuda.device_of(jacobian):
        _pull_back_kernel[(triton.cdiv(columns, _COLUMNS),)](
            grad.contiguous(), jacobian, out, columns, rows, outputs, _COLUMNS
        )
    return out


def _new_sums(jacobian: Tensor) -> Tensor:
    _, rows, channels, n = jacobian.shape
    return jacobian.new_empty([rows - 1, channels, n])


@product_gradients.register_fake
def _(grad, jacobian):  # type: ignore[no-untyped-def]
    return _new_sums(jacobian)


class FusedProductBasis(nn.Module):
    """The same as a `ProductBasis`, which it is on a CPU.

    Args:
        plain: of order 3 and few kernels, in float32, with folded forms.
        lmax: highest degree of the sums.
    """

    def __init__(self, plain: ProductBasis, lmax: int) -> None:
        super().__init__()
        self.plain = plain
        self.outputs: int = plain.forms.outputs
        self.interpreted: bool = triton.knobs.runtime.interpret
        is_odd = torch.tensor([False, *_odd_components(lmax)])
        of_rows = torch.tensor(_odd_components(isqrt(self.outputs) - 1)).unsqueeze(1) ^ is_odd
        products = torch.stack([plain.forms.left, plain.forms.right])
        of_products = is_odd[products[0]] ^ is_odd[products[1]]
        for name, is_cross in ("same", False), ("cross", True):
            rows = (of_rows.flatten() == is_cross).nonzero().squeeze(1)
            columns = (of_products == is_cross).nonzero().squeeze(1)
            more_rows = max(16, triton.next_power_of_2(len(rows))) - len(rows)
            more_columns = -len(columns) % _PRODUCTS
            forms = pad(
                plain.forms.forms[:, :, rows][..., columns], [0, more_columns, 0, more_rows]
            )
            own = pad(products[:, columns], [0, more_columns])
            self.register_buffer(name, forms)
            self.register_buffer(f"{name}_products", own.to(torch.int32))
            self.register_buffer(f"{name}_targets", pad(rows, [0, more_rows], value=-1).int())

    def forward(self, sums: Tensor, counts: List[int]) -> Tuple[Tensor, List[List[Tensor]]]:
        """See `ProductBasis.forward`."""
        if not (sums.is_cuda or self.interpreted):
            plain: Tuple[Tensor, List[List[Tensor]]] = self.plain(sums, counts)
            return plain
        forms = [self.same, self.cross, self.same_products, self.cross_products]
        forms += [self.same_targets, self.cross_targets]
        out, jacobian = torch.ops.openmm_les.product_basis(sums, forms, counts, self.outputs)
        return out, [[jacobian]]

    @torch.jit.export
    def backward(self, grad: Tensor, jacobians: List[List[Tensor]]) -> Tensor:
        """See `ProductBasis.backward`."""
        if not (grad.is_cuda or self.interpreted):
            plain: Tensor = self.plain.backward(grad, jacobians)
            return plain
        gradient: Tensor = torch.ops.openmm_les.product_gradients(grad, jacobians[0][0])
        return gradient


def _odd_components(lmax: int) -> List[bool]:
    """Whether components in parity order have an odd degree."""
    return [d % 2 == 1 for d in parity_ordered_degrees(lmax) for _ in range(2 * d + 1)]
