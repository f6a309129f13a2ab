"""The end of an evaluation in two Triton kernels, where torch code launches some thirty."""

from typing import Final, Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from openmm_les.evaluation.conclusion import Computed, Conclusion, Results, either
from openmm_les.evaluation.status import (
    STATUS_BOX,
    STATUS_COINCIDENT,
    STATUS_OVERFLOW,
    STATUS_POSITIONS,
    STATUS_RESULT,
)
from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.kernels.triton.matrix import BLOCK, extent, load_cell, reciprocal

_OVERFLOW, _BOX = tl.constexpr(STATUS_OVERFLOW), tl.constexpr(STATUS_BOX)
_POSITIONS, _COINCIDENT = tl.constexpr(STATUS_POSITIONS), tl.constexpr(STATUS_COINCIDENT)
_RESULT = tl.constexpr(STATUS_RESULT)


@triton.jit
def _is_lost(number):  # type: ignore[no-untyped-def]
    """1 for NaN and infinity, 0 for other numbers."""
    return 1 - (tl.abs(number) < float("inf")).to(tl.int32)


@triton.jit
def _look_kernel(positions, forces, lost, numbers, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether a position, and whether a force of a block is not finite."""
    each = tl.program_id(0) * block + tl.arange(0, block)
    on = each < numbers
    place = tl.load(positions + each, mask=on, other=0.0)
    force = tl.load(forces + each, mask=on, other=0.0)
    tl.store(lost + 2 * tl.program_id(0), tl.max(_is_lost(place), 0))
    tl.store(lost + 2 * tl.program_id(0) + 1, tl.max(_is_lost(force), 0))


@triton.jit
def _conclude_kernel(  # type: ignore[no-untyped-def]
    energy,
    charge_energy,
    forces,
    charges,
    cell,
    original,
    least_heights,
    largest,
    coincident,
    crowded,
    outgrown,
    lost,
    ordered_energy,
    ordered_charge_energy,
    ordered_forces,
    ordered_charges,
    status,
    n,
    rows,
    blocks,
    capacity,
    periodic: tl.constexpr,
    block: tl.constexpr,
):
    """See `Conclusion.by_torch`: every program finds the status, and orders a block of atoms."""
    lane = tl.arange(0, block)
    lost_places = tl.zeros([block], tl.int32)
    lost_forces = tl.zeros([block], tl.int32)
    for start in range(0, blocks, block):
        each = start + lane
        on = each < blocks
        lost_places = tl.maximum(lost_places, tl.load(lost + 2 * each, mask=on, other=0))
        lost_forces = tl.maximum(lost_forces, tl.load(lost + 2 * each + 1, mask=on, other=0))
    no_places, no_forces = tl.max(lost_places, 0), tl.max(lost_forces, 0)
    total, of_charges = tl.load(energy), tl.load(charge_energy)
    no_forces = tl.maximum(no_forces, _is_lost(total))
    no_box = (tl.load(outgrown) != 0).to(tl.int32)
    if periodic:
        box = load_cell(cell)
        columns, volume = reciprocal(box)
        no_places = tl.maximum(
            no_places, _is_lost(extent(box[0]) + extent(box[1]) + extent(box[2]))
        )
        for axis in tl.static_range(3):
            u = columns[axis]
            x, y, z = u[0] / volume, u[1] / volume, u[2] / volume
            height = 1.0 / tl.sqrt(x * x + y * y + z * z)
            # Not the opposite comparison: a height that is NaN is none.
            high = (height >= tl.load(least_heights + axis)).to(tl.int32)
            no_box = tl.maximum(no_box, 1 - high)
    too_many = (tl.load(crowded) != 0).to(tl.int32) * (1 - no_places)
    too_many = tl.maximum(too_many, (tl.load(largest) > capacity).to(tl.int32))
    same_place = (tl.load(coincident) != 0).to(tl.int32)
    bits = too_many * _OVERFLOW + no_box * _BOX + no_places * _POSITIONS
    bits += same_place * _COINCIDENT
    bits = tl.where(bits == 0, no_forces * _RESULT, bits)
    one = tl.where(bits == 0, 1.0, float("nan"))

    atom = tl.program_id(0) * block + lane
    on = atom < n
    source = tl.load(original + atom, mask=on, other=0)
    for axis in tl.static_range(3):
        force = tl.load(forces + 3 * source + axis, mask=on, other=0.0)
        tl.store(ordered_forces + 3 * atom + axis, force * one, mask=on)
    for row in range(rows):
        charge = tl.load(charges + row * n + source, mask=on, other=0.0)
        tl.store(ordered_charges + row * n + atom, charge, mask=on)
    if tl.program_id(0) == 0:
        tl.store(ordered_energy, total * one)
        tl.store(ordered_charge_energy, of_charges * one)
        tl.store(status, bits.to(tl.int64))


def _room(
    energy: Tensor, charge_energy: Tensor, forces: Tensor, charges: Tensor
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        energy.new_empty([]),
        charge_energy.new_empty([]),
        forces.new_empty(forces.shape),
        charges.new_empty(charges.shape),
        energy.new_empty([], dtype=torch.int64),
    )


@torch.library.custom_op("openmm_les::conclude", mutates_args=())
def conclude(
    energy: Tensor,
    charge_energy: Tensor,
    forces: Tensor,
    charges: Tensor,
    positions: Tensor,
    cell: Tensor,
    original: Tensor,
    least_heights: Tensor,
    largest: Tensor,
    coincident: Tensor,
    crowded: Tensor,
    outgrown: Tensor,
    capacity: int,
    periodic: bool,
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Energy, that of the charges, forces, charges and status of the `Results` of a `Conclusion`.

    Takes what that does; energies and forces are float64.
    """
    forces, charges = forces.contiguous(), charges.contiguous()
    results = _room(energy, charge_energy, forces, charges)
    n = forces.shape[0]
    blocks = triton.cdiv(3 * n, BLOCK)
    lost = energy.new_empty([blocks, 2], dtype=torch.int32)
    with torch.cuda.device_of(forces):
        _look_kernel[(blocks,)](positions.contiguous(), forces, lost, 3 * n, BLOCK)
        _conclude_kernel[(triton.cdiv(n, BLOCK),)](
            energy,
            charge_energy,
            forces,
            charges,
            cell.contiguous(),
            original,
            least_heights,
            largest,
            coincident,
            crowded,
            outgrown,
            lost,
            *results,
            n,
            charges.numel() // n,
            blocks,
            capacity,
            periodic,
            BLOCK,
            enable_fp_fusion=False,
        )
    return results


@conclude.register_fake
def _(  # type: ignore[no-untyped-def]
    energy,
    charge_energy,
    forces,
    charges,
    positions,
    cell,
    original,
    least_heights,
    largest,
    coincident,
    crowded,
    outgrown,
    capacity,
    periodic,
):
    return _room(energy, charge_energy, forces, charges)


class FusedConclusion(Conclusion):
    """A `Conclusion` in two kernels; on a CPU it is torch code."""

    interpreted: Final[bool] = triton.knobs.runtime.interpret

    def forward(
        self,
        computed: Computed,
        positions: Tensor,
        cell: Tensor,
        neighbors: Neighbors,
        crowded: Optional[Tensor],
        outgrown: Tensor,
    ) -> Results:
        """See `Conclusion.forward`."""
        if not (positions.is_cuda or self.interpreted):
            return self.by_torch(computed, positions, cell, neighbors, crowded, outgrown)
        energy, charge_energy, forces, charges, status = torch.ops.openmm_les.conclude(
            computed.energy,
            computed.charge_energy,
            computed.forces,
            computed.charges,
            positions,
            cell,
            self.original,
            self.least_heights,
            neighbors.largest,
            neighbors.coincident,
            either(neighbors.crowded, crowded),
            outgrown,
            self.capacity,
            self.periodic,
        )
        return Results(energy, forces, charges, computed.strain, charge_energy, status)
