"""From the parameters of a model and a system to the kernel that computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openmm_les.electrostatics.accuracy import (
    EwaldOptions,
    bytes_of_direct,
    bytes_of_mesh,
    find_rule,
    is_affordable,
    mesh_is_faster,
    wants_exact,
)
from openmm_les.electrostatics.direct import DirectEwald, k_limits_for
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.mesh import MeshEwald, mesh_size_for
from openmm_les.electrostatics.pairs import PairSum
from openmm_les.errors import InputError

#: Elements of the largest temporary array on a GPU, which wants few and large kernels: 100 MB.
GPU_CHUNK_ELEMENTS = 2**24
_NEEDED = ("sigma", "dl", "prefactor", "remove_self_interaction")


def build_electrostatics(
    les: Mapping[str, Any],
    periodic: bool,
    cell: Tensor | None,
    dtype: torch.dtype,
    *,
    num_atoms: int,
    options: EwaldOptions | None = None,
    margin: float = 1.0,
    device: str | torch.device = "cpu",
    finer: float = 1.0,
) -> DirectEwald | MeshEwald | PairSum:
    """The kernel for a system, still on the CPU.

    Args:
        les: parameters of the model: ``sigma`` [A], ``dl`` [A], ``prefactor`` [eV A / e^2] and
            ``remove_self_interaction``, perhaps ``n_max`` and
            ``periodic_self_terms``; others are ignored.
        cell: lattice vectors in rows [A], shape [3, 3]; needed only if periodic.
        num_atoms: number of atoms, by which the faster kernel is chosen.
        margin: factor by which each lattice vector may grow during a simulation.
        device: where the module will run.
        finer: factor of the spacing of a mesh, below 1 for what needs more than charges.
    """
    options = options or EwaldOptions()
    if not periodic:
        if options.method == "mesh" or options.cutoff == "smooth":
            raise InputError(
                "ewald='mesh' and lesCutoff='smooth' are for periodic systems, and this one is "
                "not: leave them out, or give the topology box vectors"
            )
        return PairSum(**_gaussians(les), dtype=dtype)
    if cell is None:
        raise InputError("cell: expected three lattice vectors [A] for a periodic system, got None")
    if not margin >= 1.0:
        raise InputError(f"margin: expected a factor of at least 1, got {margin}")
    kernel = reciprocal_kernel(les, options.cutoff)
    elements = GPU_CHUNK_ELEMENTS if torch.device(device).type != "cpu" else None
    return _periodic_sum(kernel, cell, dtype, num_atoms, options, margin, elements, finer)


def reciprocal_kernel(les: Mapping[str, Any], cutoff: str = "hard") -> ReciprocalKernel:
    """The interaction in reciprocal space, from the parameters of a model."""
    return ReciprocalKernel(
        **_gaussians(les),
        dl=float(les["dl"]),
        cutoff=cutoff,
        n_max=les.get("n_max"),
        periodic_self_terms=les.get("periodic_self_terms") or 1,
    )


def _gaussians(les: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in _NEEDED if name not in les]
    if missing:
        raise InputError(f"les: expected {', '.join(_NEEDED)}; missing {', '.join(missing)}")
    return {
        "sigma": float(les["sigma"]),
        "prefactor": float(les["prefactor"]),
        "remove_self_interaction": bool(les["remove_self_interaction"]),
    }


def _periodic_sum(
    kernel: ReciprocalKernel,
    cell: Tensor,
    dtype: torch.dtype,
    num_atoms: int,
    options: EwaldOptions,
    margin: float,
    elements: int | None,
    finer: float,
) -> DirectEwald | MeshEwald:
    """The mesh where it is asked for, or faster, or alone affordable; else the direct sum.

    The largest temporary array has `elements`; None leaves that to the sum.
    """
    limits = [min(n, kernel.n_max) for n in k_limits_for(cell, kernel.k_max, margin)]
    octant = [n + 1 for n in limits]
    direct_fits = is_affordable(bytes_of_direct(octant), num_atoms)
    if options.method == "mesh" or (options.method == "auto" and not wants_exact(options, dtype)):
        rule = find_rule(options.tolerance, dtype)
        spacing = finer * rule.spacing * kernel.resolution
        mesh = mesh_size_for(cell, spacing, margin)
        preferred = options.method == "mesh" or not direct_fits
        if is_affordable(bytes_of_mesh(mesh, dtype), num_atoms) and (
            preferred or mesh_is_faster(num_atoms, octant, mesh, rule.order)
        ):
            return MeshEwald(
                mesh,
                kernel,
                order=rule.order,
                spacing=spacing,
                dtype=dtype,
                chunk_size=elements and max(1, elements // rule.order**3),
            )
    if options.method == "mesh" or not direct_fits:
        edges = " x ".join(f"{float(edge):.4g}" for edge in cell.norm(dim=1))
        raise InputError(
            f"cell: the box of {edges} A is too large for a periodic sum over {num_atoms} atoms, "
            f"which would take {bytes_of_direct(octant) / 1e9:.3g} GB of memory; leave the box out "
            "(pbc=False in ASE, a topology without box vectors in OpenMM), or use a smaller one"
        )
    chunk_size = elements and max(1, elements // (8 * octant[0] * octant[1]))
    return DirectEwald(limits, kernel, dtype=dtype, chunk_size=chunk_size)
