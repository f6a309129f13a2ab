"""Neighbour sums of MACE's later layers, and their gradients, as operators of Triton kernels.

A path adds, for atom i, row r and channel c,

    sums[r, i, c] = sum_k sum_m a[i, k, m, r] R[i, k, c] h[j(i, k), m, c],   R = phi W,

with the angular factors a of a pair, products of its harmonics with Wigner 3j symbols. Every path
has kernels of its own, since all in one need more registers than there are. Messages R h exist in
registers alone, and unused slots cost nothing. The gradient by h is the same sum seen from the
sender: over its own neighbours j, whose slots `reverse` names, of a R dE/dsums[r, j, c]. So nothing
is added atomically, and results are the same bits each time.

Products of matrices are sums of three products of TF32 parts, which is as good as float32.
"""

from math import isqrt
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from openmm_les.networks.blocks.angular import degree_offsets

#: Arguments whose value a kernel is not compiled for.
_NUMBERS = ["num_slots", "num_angular"]


@triton.jit(
    do_not_specialize=[*_NUMBERS, "inner_stride", "outer_stride"],
    do_not_specialize_on_alignment=["angular"],
)
def sum_messages(  # type: ignore[no-untyped-def]
    out,
    source,
    angular,
    features,
    weights,
    indices,
    reverse,
    used,
    num_slots,
    num_angular,
    feature_stride,
    inner_stride,
    outer_stride,
    source_component,
    source_atom,
    out_component,
    out_atom,
    inner: tl.constexpr,
    outer: tl.constexpr,
    outer_padded: tl.constexpr,
    width: tl.constexpr,
    width_padded: tl.constexpr,
    channels: tl.constexpr,
    is_reversed: tl.constexpr,
    slots: tl.constexpr,
    columns: tl.constexpr,
    precision: tl.constexpr,
):
    """out[o, i, c] = sum_k sum_s a[slot, s, o] R[slot, c] source[s, j, c] of one path.

    A program has a block of channels of atom i; the next program has the next block, and finds the
    slots of the atom in the cache. The slot is k of atom i, or with `is_reversed` that of the same
    pair in the row of j; then the sum is added to what is there.
    """
    blocks: tl.constexpr = (channels + columns - 1) // columns
    i = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * columns + tl.arange(0, columns)
    wide_component = source_component + 0 * i  # large systems need 64 bits
    p = tl.arange(0, width_padded)
    o = tl.arange(0, outer_padded)
    is_channel = c < channels
    map_mask = (p < width)[:, None] & is_channel[None, :]
    own_map = tl.load(weights + p[:, None] * channels + c[None, :], mask=map_mask, other=0.0)
    total = tl.zeros([outer_padded, slots, columns], tl.float32)
    number = tl.load(used + i)
    for first in range(0, number, slots):
        k = first + tl.arange(0, slots)
        is_used = k < number
        atom = tl.load(indices + i * num_slots + k, mask=is_used, other=0)
        if is_reversed:
            slot = tl.load(reverse + i * num_slots + k, mask=is_used, other=0)
        else:
            slot = i * num_slots + k
        phi = tl.load(
            features + slot[:, None] * feature_stride + p[None, :],
            mask=is_used[:, None] & (p < width)[None, :],
            other=0.0,
        )
        radial = tl.dot(phi, own_map, input_precision=precision)
        for s in tl.static_range(inner):
            value = tl.load(
                source + s * wide_component + atom[:, None] * source_atom + c[None, :],
                mask=is_used[:, None] & is_channel[None, :],
                other=0.0,
            )
            factor = tl.load(
                angular
                + slot[None, :] * num_angular
                + s * inner_stride
                + o[:, None] * outer_stride,
                mask=(o < outer)[:, None] & is_used[None, :],
                other=0.0,
            )
            total += factor[:, :, None] * (radial * value)[None, :, :]
    sums = tl.sum(total, 1)
    place = out + o[:, None].to(tl.int64) * out_component + i * out_atom + c[None, :]
    mask = (o < outer)[:, None] & is_channel[None, :]
    if is_reversed:
        sums += tl.load(place, mask=mask, other=0.0)
    tl.store(place, sums, mask=mask)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=["angular", "grad_angular"])
def slot_gradients(  # type: ignore[no-untyped-def]
    grad_angular,
    grad_features,
    grad_sums,
    senders,
    angular,
    features,
    weights,
    indices,
    used,
    num_slots,
    num_angular,
    feature_stride,
    sender_atom,
    sums_component,
    sums_atom,
    inner: tl.constexpr,
    inner_padded: tl.constexpr,
    outer: tl.constexpr,
    outer_padded: tl.constexpr,
    width: tl.constexpr,
    width_padded: tl.constexpr,
    channels: tl.constexpr,
    slots: tl.constexpr,
    columns: tl.constexpr,
    precision: tl.constexpr,
):
    """dE/da of one path, and dE/dphi added to what is there, of a block of slots of atom i."""
    blocks = tl.cdiv(num_slots, slots)
    i = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * slots
    wide_component = sums_component + 0 * i  # large systems need 64 bits
    k = first + tl.arange(0, slots)
    p = tl.arange(0, width_padded)
    m = tl.arange(0, inner_padded)
    o = tl.arange(0, outer_padded)
    number = tl.load(used + i)
    is_used = k < number
    slot = i * num_slots + k
    atom = tl.load(indices + slot, mask=is_used, other=0)
    is_feature = (p < width)[None, :]
    phi = tl.load(
        features + slot[:, None] * feature_stride + p[None, :],
        mask=is_used[:, None] & is_feature,
        other=0.0,
    )
    to_angular = tl.zeros([slots, inner_padded, outer_padded], tl.float32)
    to_features = tl.zeros([slots, width_padded], tl.float32)
    for start in range(0, tl.where(first < number, channels, 0), columns):
        c = start + tl.arange(0, columns)
        is_channel = c < channels
        own_map = tl.load(
            weights + p[:, None] * channels + c[None, :],
            mask=(p < width)[:, None] & is_channel[None, :],
            other=0.0,
        )
        radial = tl.dot(phi, own_map, input_precision=precision)
        grads = tl.load(
            grad_sums + o[None, :] * wide_component + i * sums_atom + c[:, None],
            mask=(o < outer)[None, :] & is_channel[:, None],
            other=0.0,
        )
        to_radial = tl.zeros([slots, columns], tl.float32)
        for s in tl.static_range(inner):
            value = tl.load(
                senders + atom[:, None] * sender_atom + s * channels + c[None, :],
                mask=is_used[:, None] & is_channel[None, :],
                other=0.0,
            )
            to_message = tl.zeros([slots, columns], tl.float32)
            for r in tl.static_range(outer):
                factor = tl.load(
                    angular + slot * num_angular + s * outer + r, mask=is_used, other=0.0
                )
                grad = tl.load(
                    grad_sums + r * wide_component + i * sums_atom + c, mask=is_channel, other=0.0
                )
                to_message += factor[:, None] * grad[None, :]
            to_radial += to_message * value
            own = tl.dot(radial * value, grads, input_precision=precision)
            to_angular += tl.where((m == s)[None, :, None], own[:, None, :], 0.0)
        to_features += tl.dot(to_radial, tl.trans(own_map), input_precision=precision)
    place = grad_angular + slot[:, None, None] * num_angular
    place += (m * outer)[None, :, None] + o[None, None, :]
    mask = (k < num_slots)[:, None, None] & (m < inner)[None, :, None] & (o < outer)[None, None, :]
    tl.store(place, to_angular, mask=mask)
    place = grad_features + slot[:, None] * width + p[None, :]
    mask = (k < num_slots)[:, None] & is_feature
    to_features += tl.load(place, mask=mask, other=0.0)
    tl.store(place, to_features, mask=mask)


class Path(NamedTuple):
    """What belongs to a path in the tensors of an operator."""

    weights: Tensor  #: W of shape [P, C].
    inner: int  #: components of a sender.
    outer: int  #: rows of the sums.
    angular: slice  #: its angular factors.
    node: slice  #: its node features.
    degree: int  #: its rows are part of the sums of this degree,
    columns: slice  #: in these columns.


def _paths(weights: Tensor, degrees: Sequence[int], senders: Tensor) -> List[Path]:
    """The paths of W [paths, P, C]; `degrees` of sender and sums of the first, the second, ..."""
    channels = weights.shape[2]
    paths: List[Path] = []
    first, seen = 0, [0] * (max(degrees) + 1)
    offsets = degree_offsets(isqrt(senders.shape[1] // channels) - 1)
    for p, (node, out) in enumerate(zip(degrees[::2], degrees[1::2], strict=True)):
        inner, outer = 2 * node + 1, 2 * out + 1
        features = slice(offsets[node] * channels, (offsets[node] + inner) * channels)
        columns = slice(seen[out] * channels, (seen[out] + 1) * channels)
        angular = slice(first, first + inner * outer)
        paths.append(Path(weights[p], inner, outer, angular, features, out, columns))
        first += inner * outer
        seen[out] += 1
    return paths


def _components(nodes: Tensor, path: Path) -> Tensor:
    """Node features of a path [components, N, C] among all [N, n_node]."""
    return nodes[:, path.node].view(len(nodes), path.inner, -1).transpose(0, 1)


def _new_sums(senders: Tensor, weights: Tensor, degrees: Sequence[int], lmax: int) -> List[Tensor]:
    n, channels, outputs = senders.shape[0], weights.shape[2], degrees[1::2]
    return [
        senders.new_empty([2 * degree + 1, n, outputs.count(degree) * channels])
        for degree in range(lmax + 1)
    ]


def _sizes(path: Path, slots: int, columns: int) -> Dict[str, Any]:
    """Arguments that both kernels are compiled for; `tl.dot` takes 16 rows and columns or more."""
    width, channels = path.weights.shape
    return {
        "width": width,
        "width_padded": max(16, triton.next_power_of_2(width)),
        "channels": channels,
        "slots": slots,
        "columns": max(16, min(columns, triton.next_power_of_2(channels))),
        "precision": "tf32x3",
    }


def _launch_sums(
    path: Path,
    out: Tensor,
    source: Tensor,
    angular: Tensor,
    features: Tensor,
    neighbors: Tuple[Tensor, Tensor],
    reverse: Optional[Tensor],
    tiles: Sequence[int],
) -> None:
    """`sum_messages` of a path, from [components, N, C] to [components, N, C]."""
    indices, used = neighbors
    slots, columns, warps, stages = tiles
    sizes = _sizes(path, slots, columns)
    blocks = triton.cdiv(sizes["channels"], sizes["columns"])
    inner, outer = source.shape[0], out.shape[0]
    strides = (path.outer, 1) if reverse is None else (1, path.outer)
    sum_messages[(out.shape[1] * blocks,)](
        out,
        source,
        angular[:, path.angular],
        features,
        path.weights,
        indices,
        indices if reverse is None else reverse,
        used,
        indices.shape[1],
        angular.shape[1],
        features.stride(0),
        *strides,
        *source.stride()[:2],
        *out.stride()[:2],
        inner=inner,
        outer=outer,
        outer_padded=triton.next_power_of_2(outer),
        is_reversed=reverse is not None,
        **sizes,
        num_warps=warps,
        num_stages=stages,
    )


@torch.library.custom_op("openmm_les::message_sums", mutates_args=())
def message_sums(
    angular: Tensor,
    features: Tensor,
    senders: Tensor,
    indices: Tensor,
    used: Tensor,
    weights: Tensor,
    degrees: List[int],
    lmax: int,
    tiles: List[int],
) -> List[Tensor]:
    """Sums of each degree up to `lmax` [2l+1, N, columns], path after path in the columns.

    Args:
        angular: angular factors of all paths [N * K, A].
        features: phi of shape [N, K, P].
        senders: node features h of shape [N, n_node].
        indices: those of `Neighbors`, and so are `used` and `reverse`.
        weights: W of all paths [paths, P, C].
        degrees: of sender and sums of the first path, of the second, ...
        tiles: slots and channels that a program works on at a time, its warps, and stages of its
            loops.
    """
    sums, rows = _new_sums(senders, weights, degrees, lmax), features.flatten(0, 1)
    with torch.cuda.device_of(senders):
        for path in _paths(weights, degrees, senders):
            out, source = sums[path.degree][:, :, path.columns], _components(senders, path)
            _launch_sums(path, out, source, angular, rows, (indices, used), None, tiles)
    return sums


@message_sums.register_fake
def _(
    angular: Tensor,
    features: Tensor,
    senders: Tensor,
    indices: Tensor,
    used: Tensor,
    weights: Tensor,
    degrees: List[int],
    lmax: int,
    tiles: List[int],
) -> List[Tensor]:
    return _new_sums(senders, weights, degrees, lmax)


@torch.library.custom_op("openmm_les::message_gradients", mutates_args=())
def message_gradients(
    grad_sums: List[Tensor],
    angular: Tensor,
    features: Tensor,
    senders: Tensor,
    indices: Tensor,
    used: Tensor,
    reverse: Tensor,
    weights: Tensor,
    degrees: List[int],
    tiles: List[int],
) -> Tuple[Tensor, Tensor, Tensor]:
    """From dE/dsums to dE/d of the first three arguments of `message_sums`."""
    n, k = indices.shape
    slots, columns, warps, stages = tiles
    rows = features.flatten(0, 1)
    grad_angular, grad_senders = torch.empty_like(angular), torch.zeros_like(senders)
    grad_features = features.new_zeros(features.shape)
    with torch.cuda.device_of(senders):
        for path in _paths(weights, degrees, senders):
            grad = grad_sums[path.degree][:, :, path.columns]
            slot_gradients[(n * triton.cdiv(k, slots),)](
                grad_angular[:, path.angular],
                grad_features,
                grad,
                senders[:, path.node],
                angular[:, path.angular],
                rows,
                path.weights,
                indices,
                used,
                k,
                angular.shape[1],
                rows.stride(0),
                senders.stride(0),
                *grad.stride()[:2],
                inner=path.inner,
                inner_padded=triton.next_power_of_2(path.inner),
                outer=path.outer,
                outer_padded=max(8, triton.next_power_of_2(path.outer)),
                **_sizes(path, slots, columns),
                num_warps=warps,
                num_stages=stages,
            )
            out = _components(grad_senders, path)
            _launch_sums(path, out, grad, angular, rows, (indices, used), reverse, tiles)
    return grad_angular, grad_features, grad_senders


@message_gradients.register_fake
def _(
    grad_sums: List[Tensor], angular: Tensor, features: Tensor, senders: Tensor, *_: Any
) -> Tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(angular), features.new_empty(features.shape), torch.empty_like(senders)
