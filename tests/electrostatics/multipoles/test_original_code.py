"""Energies and all derivatives that the original code has for random multipoles."""

import numpy as np
import pytest
import torch
from oracles.ewald import Parameters
from support.charges import tensor
from support.helpers import SHARED, shared_file
from support.multipoles import errors, rms_errors, sum_for

from openmm_les.electrostatics.multipoles import SiteMoments

SETS = [
    f"{place}_{parameters}_{kind}"
    for place in ("small_tri", "flat_tri", "sheared30", "cluster_open")
    for parameters, kinds in {
        "s1.0_dl2.0_rsi": "q qu quQ quQk quQa quQkA qA quQkA_field",
        "s1.0_dl2.0_self": "quQ quQkA",
        "s0.8_dl1.5_rsi": "quQ quQkA",
        "s1.3_dl2.2_self": "quQ quQkA",
    }.items()
    for kind in kinds.split()
]
DERIVATIVES = ("charges", "dipoles", "quads", "kappas", "alphas", "positions")
FIELDS = ("charges", "dipoles", "quadrupoles", "kappa", "alpha", "gradient")


@pytest.fixture(scope="module")
def reference():
    """All sets, by their names."""
    with np.load(shared_file(SHARED / "models" / "extended" / "les_kernel_reference.npz")) as data:
        sets: dict[str, dict] = {str(name): {} for name in data["names"]}
        names = list(sets)
        assert set(names) == set(SETS)
        for key in data.files:
            number, _, field = key.partition("/")
            if field:
                sets[names[int(number)]][field] = tensor(data[key])
    return sets


def expectation(known) -> dict[str, torch.Tensor]:
    """Its results under our names, without the trace and the antisymmetric part of derivatives."""
    found = {"energy": known["energy"], "potential": known["phi"]}
    for theirs, ours in zip(DERIVATIVES, FIELDS, strict=True):
        if f"dE_d{theirs}" in known:
            found[ours] = known[f"dE_d{theirs}"]
    for name in ("quadrupoles", "alpha"):
        if name in found and found[name].dim() == 3:
            found[name] = 0.5 * (found[name] + found[name].transpose(1, 2))
    if "quadrupoles" in found:
        trace = found["quadrupoles"].diagonal(0, 1, 2).sum(1) / 3
        found["quadrupoles"] = found["quadrupoles"] - torch.diag_embed(trace[:, None].expand(-1, 3))
    if known["periodic"]:
        found["strain"] = known["dE_dpositions"].T @ known["positions"]
        found["strain"] = found["strain"] + known["dE_dcell"].T @ known["cell"]
    return found


@pytest.mark.parametrize("name", SETS)
def test_every_derivative_of_the_original(reference, name):
    known = reference[name]
    moments = SiteMoments(*(known.get(key) for key in DERIVATIVES[:5]))
    parameters = Parameters(
        float(known["sigma"]),
        float(known["dl"]),
        remove_self_interaction=bool(known["remove_self_interaction"]),
    )
    want, cell = expectation(known), known["cell"] if known["periodic"] else None
    field = known.get("e_ext")
    if field is None:
        want["field"] = known["efield"]
    else:
        # It has F.alpha.E / 2 alone of (F + E).alpha.(F + E) / 2: half the field, but no square.
        field = 0.5 * field
        want["energy"] = want["energy"] - 0.5 * (field @ known["alphas"] @ field).sum()
        want["alpha"] = want["alpha"] - 0.5 * torch.outer(field, field)
    kernel = sum_for(moments, cell, parameters)
    found = kernel(moments, known["positions"], known["cell"], None, field)
    wrong = errors(found, want)
    assert wrong.pop("energy") < 1e-12
    assert max(wrong.values()) < 1e-12
    if cell is not None:
        mesh = sum_for(moments, cell, parameters, "mesh", tolerance=1e-5)
        found = mesh(moments, known["positions"], cell, None, field)
        assert max(rms_errors(found, want).values()) < 1e-5
