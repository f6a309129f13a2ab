"""Kernels of the end of an evaluation in Triton's interpreter; `test_fused_messages.py` runs it."""

import pytest
import torch
from support.triton import patch_interpreter, poison_memory

from openmm_les.evaluation import fused_conclusion
from openmm_les.evaluation.conclusion import Computed, Conclusion
from openmm_les.evaluation.fused_conclusion import FusedConclusion, conclude
from openmm_les.evaluation.status import (
    STATUS_BOX,
    STATUS_COINCIDENT,
    STATUS_OVERFLOW,
    STATUS_POSITIONS,
    STATUS_RESULT,
)
from openmm_les.neighbors.matrix import Neighbors, least_heights

patch_interpreter()
poison_memory()

#: Atoms, and the slots of each of them.
ATOMS, CAPACITY = 300, 40
NAN, INFINITY = float("nan"), float("inf")
#: Boxes are 10 A high and more; the nearest images need these heights.
LEAST = least_heights([0, 0, 0], 4.9)


def sound(rows=None):
    """What `Conclusion.forward` takes when all is well."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    none = torch.empty(0)
    no = torch.tensor(False)
    neighbors = Neighbors(none, none, none, none, torch.tensor(CAPACITY), no, no)
    charges = random(ATOMS) if rows is None else random(rows, ATOMS)
    forces = random(3, ATOMS).t()  # not as they lie in memory
    return {
        "computed": Computed(random(), forces, charges, random(3, 3), random()),
        "positions": 100 * random(ATOMS, 3),
        "cell": torch.tensor([[11.0, 0, 0], [3, 12, 0], [-2, 4, 10]], dtype=torch.float64),
        "neighbors": neighbors,
        "crowded": None,
        "outgrown": no,
    }


def spoil(given, what):
    """One thing that goes wrong."""
    neighbors, last = given["neighbors"], ATOMS - 1
    if what == "positions":
        given["positions"][last, 2] = NAN
    elif what == "forces":
        given["computed"].forces[last, 2] = NAN
    elif what == "infinite position":
        given["positions"][0, 0] = INFINITY
    elif what == "infinite energy":
        given["computed"].energy.fill_(-INFINITY)
    elif what == "cell":
        given["cell"][1, 0] = NAN
    elif what == "no cell":
        given["cell"].zero_()
    elif what.startswith("low"):
        given["cell"][int(what[-1])] *= 0.7
    elif what == "overflow":
        given["neighbors"] = neighbors._replace(largest=torch.tensor(CAPACITY + 1))
    elif what == "crowded":
        given["neighbors"] = neighbors._replace(crowded=torch.tensor(True))
    elif what == "crowded network":
        given["crowded"] = torch.tensor(True)
    elif what == "uncrowded network":
        given["crowded"] = torch.tensor(False)
    elif what == "coincident":
        given["neighbors"] = neighbors._replace(coincident=torch.tensor(True))
    elif what == "outgrown":
        given["outgrown"] = torch.tensor(True)


#: What goes wrong, and the status in a periodic and in an open system.
CASES = {
    "nothing": (0, 0),
    "uncrowded network": (0, 0),
    "forces": (STATUS_RESULT, STATUS_RESULT),
    "infinite energy": (STATUS_RESULT, STATUS_RESULT),
    "positions": (STATUS_POSITIONS, STATUS_POSITIONS),
    "infinite position": (STATUS_POSITIONS, STATUS_POSITIONS),
    "cell": (STATUS_POSITIONS | STATUS_BOX, 0),
    "no cell": (STATUS_BOX, 0),
    "low 0": (STATUS_BOX, 0),
    "low 1": (STATUS_BOX, 0),
    "low 2": (STATUS_BOX, 0),
    "overflow": (STATUS_OVERFLOW, STATUS_OVERFLOW),
    "crowded": (STATUS_OVERFLOW, STATUS_OVERFLOW),
    "crowded network": (STATUS_OVERFLOW, STATUS_OVERFLOW),
    "coincident": (STATUS_COINCIDENT, STATUS_COINCIDENT),
    "outgrown": (STATUS_BOX, STATUS_BOX),
    "coincident, forces": (STATUS_COINCIDENT, STATUS_COINCIDENT),
    "crowded, positions": (STATUS_POSITIONS, STATUS_POSITIONS),
    "outgrown, overflow": (STATUS_BOX | STATUS_OVERFLOW, STATUS_BOX | STATUS_OVERFLOW),
}


@pytest.mark.filterwarnings("ignore:(divide|invalid)")
@pytest.mark.parametrize(
    ("periodic", "rows", "block"), [(True, None, 256), (True, 5, 16), (False, 5, 1024)]
)
def test_conclusions_equal_the_torch_code(monkeypatch, periodic, rows, block):
    """Bit for bit, and the status is the one that says what was wrong.

    Positions lie in more blocks than are looked at together, in several, and in one.
    """
    monkeypatch.setattr(fused_conclusion, "BLOCK", block)
    original = torch.randperm(ATOMS, generator=torch.Generator().manual_seed(2))
    arguments = periodic, CAPACITY, original, LEAST
    plain, fused = Conclusion(*arguments), torch.jit.script(FusedConclusion(*arguments))
    for name, statuses in CASES.items():
        given = sound(rows)
        for what in name.split(", "):
            spoil(given, what)
        expected, got = plain(**given), fused(**given)
        assert int(got.status) == int(expected.status) == statuses[not periodic], name
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=name)
        assert bool(got.forces.isnan().all()) == (int(got.status) != 0), name


def test_the_operator_says_what_it_returns():
    given = sound(rows=2)
    flags = given["neighbors"].coincident, given["outgrown"], given["outgrown"]
    energy, forces, charges, _, charge_energy = given["computed"]
    results = energy, charge_energy, forces, charges
    arguments = *results, given["positions"], given["cell"], torch.arange(ATOMS), LEAST
    checks = "test_schema", "test_faketensor"
    more = given["neighbors"].largest, *flags, CAPACITY, True
    torch.library.opcheck(conclude, (*arguments, *more), test_utils=checks)
