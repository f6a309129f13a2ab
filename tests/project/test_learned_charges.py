"""The comparison of learned charges with those of the labels, of `training/les_demo/charges.py`."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from openmm_les import catalog

PROGRAM = Path(__file__).parents[2] / "training" / "les_demo" / "charges.py"


@pytest.fixture(scope="module")
def program():
    spec = spec_from_file_location("charges_of_les_demo", PROGRAM)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def waters(program):
    """Two water clusters that were held out, and their latent charges."""
    found = [s for s in program.held_out(PROGRAM.parent / "data.npz", 60) if 1 in s.numbers]
    found = [s for s in found if s.group == "water clusters"][:2]
    return found, program.latent_charges(catalog.open_model("les-demo"), found)


def test_charges_that_are_multiples_of_the_labels(program, waters):
    """Half of the labels, and a tenth more on each atom: what the statistics must say is plain."""
    structures, latent = waters
    assert all((q[s.numbers == 8] < 0).all() for s, q in zip(structures, latent, strict=True))
    labels = [q - q.mean() for q in latent]
    dipoles = [q @ s.positions for q, s in zip(labels, structures, strict=True)]
    rows = [
        program.Charges(s, 0.5 * q + 0.1, q, dipole)
        for s, q, dipole in zip(structures, labels, dipoles, strict=True)
    ]
    found = program.report(rows)
    assert list(found["elements"]) == ["H", "O"]
    every = found["groups"]["all"]
    assert every["structures"] == 2
    assert every["charges"]["correlation"] == pytest.approx(1.0)
    expected = np.sqrt(np.mean((0.1 - 0.5 * np.concatenate(labels)) ** 2))
    assert every["charges"]["rmse"] == pytest.approx(expected)
    assert every["dipoles"]["latent"]["slope"] == pytest.approx(0.5)
    assert every["dipoles"]["latent"]["mean_cosine"] == pytest.approx(1.0)
    assert every["dipoles"]["mulliken"]["rmse"] == pytest.approx(0.0, abs=1e-6)
    assert every["sums"]["largest"] == pytest.approx(0.1 * max(len(q) for q in labels))
    table = program.tables(found)
    assert table.count("\n| H |") == table.count("\n| O |") == 1
    assert "| all | 2 | 1.000 |" in table


@pytest.mark.skipif(find_spec("tblite") is None, reason="needs tblite")
def test_mulliken_charges_of_gfn2(program, waters):
    charges, dipole = program.gfn2(waters[0][0])
    assert charges.sum() == pytest.approx(0.0, abs=1e-6)
    oxygen = waters[0][0].numbers == 8
    assert (charges[oxygen] < -0.4).all()
    assert (charges[~oxygen] > 0.2).all()
    assert 0.0 < np.linalg.norm(dipole) < 0.6 * oxygen.sum()  # e A
