"""What the loops of the extra `cpu` compute is what the operations of torch compute."""

import numpy as np
import pytest
from support.gradients import system_for
from support.helpers import dipeptide
from support.structures import waters

from openmm_les import artifact as artifacts
from openmm_les.catalog import artifact_path
from openmm_les.networks.kernels import obstacle

if obstacle("numba"):
    pytest.skip("needs the extra cpu", allow_module_level=True)


def in_turns(structure, precision, capacity=None):
    """A model by its loops, and by torch in float64; the operators in their code are checked."""
    demo = artifacts.load(artifact_path("les-demo"))
    options = {"max_neighbors": capacity} if capacity else {}
    loops = system_for(demo, structure, precision, **options)
    plain = system_for(demo, structure, "double", engine="torchscript", **options)
    codes = [str(model.module.evaluate.inlined_graph) for model in (loops, plain)]
    assert ["openmm_les_loops::" in code for code in codes] == [True, False]
    return loops, plain


@pytest.mark.parametrize(("precision", "tolerance"), [("double", 1e-11), ("single", 1e-5)])
@pytest.mark.parametrize(
    "make", [lambda: dipeptide(0), lambda: waters(4, 4, 3)], ids=["open", "periodic"]
)
def test_same_results(make, precision, tolerance):
    structure = make()
    one, other = (m.evaluate(structure.positions) for m in in_turns(structure, precision))
    exact = {"rtol": 0.0, "atol": tolerance}
    # 1e-6 eV an atom in single precision.
    np.testing.assert_allclose(one.energy, other.energy, 0.0, 0.1 * tolerance * len(structure))
    np.testing.assert_allclose(one.forces, other.forces, **exact)
    np.testing.assert_allclose(one.charges, other.charges, **exact)
    np.testing.assert_allclose(one.virial, other.virial, rtol=0.0, atol=10 * tolerance)


def test_buffers_that_are_too_small_grow():
    structure = waters(4, 4, 3)
    one, other = (m.evaluate(structure.positions) for m in in_turns(structure, "double", 3))
    np.testing.assert_allclose(one.forces, other.forces, rtol=0.0, atol=1e-11)


def test_response():
    structure = dipeptide(0)
    one, other = (m.response(structure.positions) for m in in_turns(structure, "double"))
    np.testing.assert_allclose(one.born_charges, other.born_charges, rtol=0.0, atol=1e-10)
