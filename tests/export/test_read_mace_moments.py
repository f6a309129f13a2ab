"""MACE files with latent moments in combinations of their own, against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import canonical_model, reference_model
from openmm_les_export.options import ModelOptions
from openmm_les_export.verification.probes import probe_structures
from oracles.models import needs_mace
from support.evaluation import eager

from openmm_les.evaluation.results import latent_moments
from openmm_les.networks.moments import layout_of

SMALL = {"elements": [1, 8], "channels": 2, "max_ell": 2, "correlation": 2, "radial_MLP": [4]}
OFF = dict.fromkeys(
    ("use_dipoles", "use_quads", "use_induced_charges", "use_induced_dipoles", "tables"), False
)
OFF |= {"make_alpha_positive": False, "make_kappa_positive": False}
#: Moments, hyper-parameters, and the highest degree that leaves the last layer.
COMBINATIONS = {
    "all, three layers": ({}, {"max_L": 2, "interactions": 3}, 2),
    "all of float64": ({}, {"max_L": 1, "dtype": "float64"}, 1),
    "all without vectors": ({"use_anisotropic_polarizability": False}, {"max_L": 0}, 0),
    "nonlinear quadrupoles, linear alpha": (
        {"quads_nonlinear": True, "alpha_nonlinear": False, "make_alpha_positive": False},
        {"max_L": 1},
        1,
    ),
    "quadrupoles alone": (OFF | {"use_quads": True}, {"max_L": 2}, 2),
    "alpha of degree 2": (
        OFF | {"use_induced_dipoles": True, "alpha_irreps": "2e"},
        {"max_L": 2},
        2,
    ),
    "weights of either sign": (
        OFF
        | {"use_induced_dipoles": True, "alpha_irreps": "1o", "alpha_nonlinear": False}
        | {"alpha_1o_linear_w_pos": False, "les_alpha_scale": -0.1},
        {"max_L": 2},
        1,
    ),
    "alpha of no degree that there is": (
        OFF | {"use_induced_dipoles": True, "alpha_irreps": "2e"},
        {"max_L": 1},
        0,
    ),
    "kappa from the last layer": (
        OFF | {"use_induced_charges": True, "make_kappa_positive": True},
        {"max_L": 1, "options": {"use_last_readout_only": True}},
        0,
    ),
    "fixed charges alone": (OFF | {"tables": True}, {"max_L": 1}, 0),
    "two heads": ({}, {"max_L": 1, "options": {"heads": ["a", "b"]}}, 1),
}


@needs_mace
@pytest.mark.parametrize("name", COMBINATIONS)
def test_combinations_of_moments(tmp_path, name):
    from oracles.mace_moments import write_mace_moments

    moments, hyper, degree = COMBINATIONS[name]
    options = hyper.get("options", {})
    if "heads" in options:
        energies = [[-1.0, -2.0], [-3.0, -4.0]]
        options = options | {"atomic_energies": energies, "atomic_inter_scale": [0.9, 1.2]}
        options |= {"atomic_inter_shift": [0.1, -0.2]}
    path = write_mace_moments(tmp_path / "x.model", moments, **SMALL | hyper | {"options": options})
    opened = open_model(path)
    model = canonical_model(opened, ModelOptions(head="b" if "heads" in options else None))
    assert model.hyper["layers"][-1]["output_lmax"] == degree
    layout, module = layout_of(model.hyper), eager(model)
    reference = reference_model(opened, model)
    for probe in probe_structures([1, 8], 4.0)[:3:2]:
        expected = reference.evaluate(probe.positions, probe.numbers, probe.cell)
        assert (layout is None) == (expected.moments is None)
        cell = np.zeros((3, 3)) if probe.cell is None else probe.cell
        inputs = [torch.tensor(array) for array in (probe.positions, probe.numbers, cell)]
        run = module if layout is None else module.evaluate
        energy, forces, latents = run(*inputs, probe.cell is not None)
        np.testing.assert_allclose(float(energy), expected.energy, rtol=0, atol=1e-10)
        np.testing.assert_allclose(forces, expected.forces, rtol=0, atol=1e-10)
        if layout is None:
            np.testing.assert_allclose(latents, expected.charges, rtol=0, atol=1e-12)
            continue
        got = vars(latent_moments(latents.numpy(), layout))
        for kind, values in vars(expected.moments).items():
            assert (values is None) == (got[kind] is None), kind
            if values is not None:
                np.testing.assert_allclose(got[kind], values, rtol=0, atol=1e-11, err_msg=kind)
                assert (np.abs(values).max() > 1e-6) == (kind != "dipoles" or degree > 0)
