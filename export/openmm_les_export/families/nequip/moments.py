"""Latent moments in checkpoints of NequIP-LES and Allegro-LES: which there are, and their readouts.

The canonical form is that of ``docs/reference/formats/nequip.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from openmm_les.networks.moments import layout_of
from openmm_les.networks.nequip.moments import COMPONENTS
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.records import invalid, is_off, unsupported
from openmm_les_export.families.nequip.checkpoint import Weights


class Readout(NamedTuple):
    """One of a model, the moment to which it adds, and the names of its tensors."""

    kind: str  #: a key of `COMPONENTS`
    moment: str
    name: str
    basis: str = ""  #: of tensors of degree 2


NEQUIP = (
    Readout("scalars", "charges", "latent_charge_readout"),
    Readout("scalars", "kappa", "latent_kappa_readout"),
    Readout("scalars", "alpha", "latent_alpha_readout"),
    Readout("vectors", "dipoles", "latent_dipole_readout"),
    Readout("squares", "quadrupoles", "quad_1o_readout"),
    Readout("squares", "alpha", "alpha_1o_readout"),
    Readout("tensors", "quadrupoles", "quad_2e_readout", "quad_2e_cart"),
    Readout("tensors", "alpha", "alpha_2e_readout", "alpha_2e_cart"),
)
ALLEGRO = (
    Readout("scalars", "charges", "edge_latent_charge_readout"),
    Readout("scalars", "kappa", "edge_latent_kappa_readout"),
    Readout("scalars", "alpha", "edge_latent_alpha_readout"),
    Readout("vectors", "dipoles", "edge_latent_dipole_weight_readout"),
    Readout("squares", "quadrupoles", "edge_quad_1o_weight"),
    Readout("squares", "alpha", "edge_alpha_1o_weight"),
    Readout("tensors", "quadrupoles", "edge_quad_2e_weight", "edge_quad_2e_outer"),
    Readout("tensors", "alpha", "edge_alpha_2e_weight", "edge_alpha_2e_outer"),
)
#: What ``alpha_irreps`` calls the parts of an anisotropic polarizability that it may leave out.
_IRREPS = {"squares": "1o", "tensors": "2e"}


def readouts_of(table: tuple[Readout, ...], weights: Weights) -> list[Readout]:
    """Those of a checkpoint in their order, the charge alone perhaps."""
    moments = _moments(weights.les)
    found = [readout for readout in table if _is_used(readout, moments, weights)]
    for moment in ("quadrupoles", "alpha"):
        if moments[moment] and not any(readout.moment == moment for readout in found):
            names = [readout.name for readout in table if readout.moment == moment]
            raise unsupported(moment, f"some of {', '.join(names)}", "none")
    return found


def store_moments(
    found: list[Readout], weights: Weights, state: dict[str, torch.Tensor], sign: float
) -> dict[str, Any]:
    """Hyper-parameters of these readouts, none for the charge alone.

    The matrix, in which vectors have the sign, goes into the state.
    """
    moments = _moments(weights.les)
    if not any(moments.values()):
        return {}
    state["moments.rows"] = _matrix(found, moments, weights, sign)
    options = Options(weights.les, "les_args.")
    readouts: dict[str, Any] = {
        kind: sum(readout.kind == kind for readout in found) for kind in COMPONENTS
    }
    readouts["positive"] = options.flag("kappa_alpha_positive", True)
    for moment in ("kappa", "alpha"):
        if moments[moment]:
            readouts[f"{moment}_scale"] = options.positive(f"{moment}_scale", 0.1)
    return {"moments": moments, "readouts": readouts}


def _moments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameter ``moments``, from options of the les package."""
    options = Options(arguments, "les_args.")

    def on(name: str) -> bool:
        return not is_off(arguments.get(name)) and options.flag(name)

    alpha = None
    if on("use_induced_dipole"):
        alpha = "anisotropic" if on("use_anisotropic_polarizability") else "isotropic"
    return {
        "dipoles": on("use_dipole"),
        "quadrupoles": on("use_quadrupole"),
        "kappa": on("use_induced_charge"),
        "alpha": alpha,
    }


def _is_used(readout: Readout, moments: Mapping[str, Any], weights: Weights) -> bool:
    """Whether a model has it; parts of tensors are there or not, like the features they need."""
    if not moments.get(readout.moment, True):
        return False
    if readout.moment == "alpha" and moments["alpha"] == "isotropic":
        return readout.kind == "scalars"
    if readout.moment not in ("alpha", "quadrupoles"):
        return True
    stated, irrep = weights.les.get("alpha_irreps"), _IRREPS.get(readout.kind, "")
    left_out = readout.moment == "alpha" and isinstance(stated, str) and irrep not in stated
    return weights.has(readout.name) and not left_out


def _matrix(
    found: list[Readout], moments: Mapping[str, Any], weights: Weights, sign: float
) -> torch.Tensor:
    """From readouts of an atom to its moments, [rows, numbers]; traces of quadrupoles go later."""
    layout = layout_of({"moments": moments})
    assert layout is not None
    columns = []
    for readout in found:
        first = 0 if readout.moment == "charges" else int(getattr(layout, readout.moment))
        if readout.kind == "vectors":
            block = sign * torch.eye(3, dtype=torch.float64)
        elif readout.kind == "squares":
            block = torch.eye(9, dtype=torch.float64)
        elif readout.kind == "tensors":
            block = _basis(readout, weights).T
        else:
            is_tensor = readout.moment == "alpha" and layout.alpha_rows == 9
            block = torch.eye(3 if is_tensor else 1, dtype=torch.float64).view(-1, 1)
        column = torch.zeros(layout.rows, block.shape[1], dtype=torch.float64)
        column[first : first + len(block)] = block
        columns.append(column)
    return torch.cat(columns, 1)


def _basis(readout: Readout, weights: Weights) -> torch.Tensor:
    """Tensors of the five components of degree 2, [5, 9]."""
    name = f"{readout.basis}.change_of_basis_2e"
    basis = weights.take(name, (5, 3, 3))
    if not torch.equal(basis, basis.transpose(1, 2)):
        raise invalid(name, "five symmetric tensors", "others")
    return basis.flatten(1)
