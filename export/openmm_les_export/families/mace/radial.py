"""Functions of a pair's distance in MACE files: radial basis, distance transform, ZBL repulsion."""

from __future__ import annotations

from typing import Any

import torch

from openmm_les.errors import ModelFileError
from openmm_les_export.checkpoints.records import Record, invalid
from openmm_les_export.families.canonical_form import State, cutoff_order

#: Constants of the screened Coulomb repulsion as mace-torch has them: 1 / (4 pi eps0) [eV A], Bohr
#: radius [A], exponents of the universal screening function.
_COULOMB, _BOHR = 14.3996, 0.529
_ZBL_EXPONENTS = [3.2, 0.9423, 0.4028, 0.2016]

_TRANSFORMS = {"AgnesiTransform": ("agnesi", "a", "q", "p"), "SoftTransform": ("soft", "alpha")}


def radial_basis(model: Record, elements: list[int], state: State) -> dict[str, Any]:
    """Hyper-parameters of the radial basis; its weights go into the state."""
    owners = ("", "radial_embedding.bessel_fn.", "radial_embedding.cutoff_fn.")
    cutoffs = {model.scalar(f"{owner}r_max") for owner in owners}
    if len(cutoffs) != 1 or min(cutoffs) <= 0:
        raise invalid("r_max", "one positive cutoff", sorted(cutoffs))
    embedding = model.module("radial_embedding")
    basis = embedding.module("bessel_fn")
    frequencies = basis.tensor("bessel_weights").to(torch.float64)
    state["bessel_frequencies"] = frequencies
    hyper: dict[str, Any] = {
        "cutoff": cutoffs.pop(),
        "num_bessel": frequencies.numel(),
        "bessel_prefactor": basis.scalar("prefactor"),
        "cutoff_order": cutoff_order(embedding.module("cutoff_fn")),
    }
    if "distance_transform" in embedding.modules():
        transform = embedding.module("distance_transform")
        kind, *names = _TRANSFORMS[transform.kind]
        parameters = {name: transform.scalar(name) for name in names}
        hyper["distance_transform"] = {"kind": kind, **parameters}
        state["transform.radii"] = _covalent_radii(transform, elements)
    return hyper


def zbl_repulsion(model: Record, elements: list[int], state: State, scale: float) -> dict[str, Any]:
    """Hyper-parameters of the ZBL repulsion, if the model has it; the radii go into the state.

    mace-torch applies the scale of the interaction energy to the repulsion as well.
    """
    if not model.value("pair_repulsion", False):
        return {}
    repulsion = model.module("pair_repulsion_fn")
    state["zbl.radii"] = _covalent_radii(repulsion, elements)
    coefficients = repulsion.tensor("c").to(torch.float64).reshape(-1)
    if len(coefficients) != len(_ZBL_EXPONENTS):
        raise invalid(
            f"{repulsion.path}.c", f"{len(_ZBL_EXPONENTS)} coefficients", len(coefficients)
        )
    return {
        "zbl": {
            # Every pair is counted twice, once for each of its atoms.
            "energy": 0.5 * _COULOMB * scale,
            "length": _BOHR * repulsion.scalar("a_prefactor"),
            "power": repulsion.scalar("a_exp"),
            "coefficients": coefficients.tolist(),
            "exponents": _ZBL_EXPONENTS,
            "cutoff_order": cutoff_order(repulsion),
        }
    }


def _covalent_radii(record: Record, elements: list[int]) -> torch.Tensor:
    """Radii of the model's elements, shape [Z] [A]."""
    radii = record.tensor("covalent_radii").to(torch.float64).reshape(-1)
    if len(radii) <= max(elements) or not bool((radii[elements] > 0).all()):
        raise ModelFileError(
            f"model: {record.path}.covalent_radii: expected a positive radius for each of the "
            f"elements {elements}, got something else"
        )
    return radii[elements]
