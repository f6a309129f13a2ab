"""Multipoles on a mesh against the exact sum, and finite differences; recorded on a GPU."""

import numpy as np
import pytest
import torch
from oracles.multipoles import NAMES
from support.charges import CELLS, DOUBLE, KEPT, REMOVED, SINGLE, mesh, slope, structure, tensor
from support.helpers import water_frame
from support.multipoles import errors, random_moments, results, rms_errors, sum_for
from support.tracing import trace, trace_on_fake_gpu

from openmm_les.electrostatics.accuracy import RULES
from openmm_les.electrostatics.multipoles import SiteMoments
from openmm_les.errors import InputError


def places():
    for name, n in (("cubic", 60), ("strained", 60), ("needle", 90), ("3.5 A", 7), ("2.5 A", 5)):
        yield name, structure(CELLS[name], n)[1:]
    atoms = water_frame(0)
    yield "water", (tensor(atoms.positions), tensor(atoms.cell.array))


PLACES = dict(places())


@pytest.mark.parametrize("kind", ["qu", "quQ", "quQkA"])
@pytest.mark.parametrize("name", PLACES)
def test_errors_stay_below_the_tolerance(name, kind):
    r, cell = PLACES[name]
    moments = random_moments(kind, len(r))
    if name == "needle":  # with a net charge potentials are a thousand times those of dipoles
        moments = moments._replace(charges=moments.charges - moments.charges.mean())
    want = sum_for(moments, cell, REMOVED)(moments, r, cell)
    for tolerance in [rule.tolerance for rule in RULES]:
        found = sum_for(moments, cell, REMOVED, "mesh", tolerance=tolerance)(moments, r, cell)
        assert max(rms_errors(found, results(want)).values()) < tolerance
    single = sum_for(moments, cell, REMOVED, "mesh", dtype=SINGLE)(moments, r, cell)
    # Long waves, with potentials of 100 V and flat, leave few digits of the second derivatives.
    limit = 1e-4 if name == "needle" else 1e-5
    assert max(rms_errors(single, results(want)).values()) < limit


@pytest.mark.parametrize("kind", ["quQ", "qkA"])
def test_derivatives_are_those_of_the_energy_on_the_mesh(kind):
    """Even on a coarse mesh: dynamics conserves the energy that is returned."""
    moments, (r, cell) = random_moments(kind, 60), PLACES["strained"]
    kernel = sum_for(moments, cell, KEPT, "mesh", tolerance=1e-3, margin=1.01)
    found = kernel(moments, r, cell)
    random = np.random.default_rng(5)
    for name, value in zip((*NAMES, "gradient", "strain"), (*moments, r, cell), strict=True):
        if value is None:
            continue
        direction = tensor(random.normal(size=value.shape))
        if name in ("quadrupoles", "alpha"):
            direction = direction + direction.transpose(1, 2)
        if name == "quadrupoles":
            trace = direction.diagonal(0, 1, 2).sum(1) / 3
            direction = direction - torch.diag_embed(trace[:, None].expand(-1, 3))

        def energy(step, name=name, direction=direction):
            if name == "strain":
                deformed = torch.eye(3, dtype=DOUBLE) + step * direction
                return float(kernel(moments, r @ deformed.T, cell @ deformed.T).energy)
            if name == "gradient":
                return float(kernel(moments, r + step * direction, cell).energy)
            changed = {name: getattr(moments, name) + step * direction}
            return float(kernel(moments._replace(**changed), r, cell).energy)

        got = float((getattr(found, name) * direction).sum())
        assert got == pytest.approx(slope(energy, 0.0, 1.0, 1e-6), rel=1e-5), name


def test_charges_alone_are_those_of_the_other_mesh():
    moments, (r, cell) = random_moments("q", 60), PLACES["strained"]
    found = sum_for(moments, cell, REMOVED, "mesh")(moments, r, cell)
    want = mesh(cell, REMOVED)(moments.charges, r, cell)
    names = ("energy", "charges", "gradient", "strain")
    assert max(errors(found, dict(zip(names, want, strict=False))).values()) < 1e-12


def test_a_coarse_or_impossible_mesh_is_refused():
    moments, (r, cell) = random_moments("quQ", 60), PLACES["strained"]
    found = sum_for(moments, cell, KEPT, "mesh")(moments, 1.6 * r, 1.6 * cell)
    assert found.outgrown
    assert found.energy.isnan()
    with pytest.raises(InputError, match="single precision reaches 1e-05"):
        sum_for(moments, cell, KEPT, "mesh", dtype=SINGLE, tolerance=1e-6)


@pytest.mark.parametrize("kind", ["q", "quQ", "qk", "quQkA"])
@pytest.mark.parametrize("method", ["direct", "mesh", "pairs"])
def test_a_cuda_graph_can_hold_it(method, kind):
    r, cell = PLACES["2.5 A"]
    moments = random_moments(kind, 5)
    kernel = sum_for(moments, None if method == "pairs" else cell, KEPT, method, dtype=SINGLE)
    scripted = torch.jit.script(kernel.eval())
    present = [name for name, value in moments._asdict().items() if value is not None]

    def call(r, cell, *values):
        return scripted(SiteMoments(**dict(zip(present, values, strict=True))), r, cell)

    inputs = [r, cell, *(getattr(moments, name) for name in present)]
    for _ in range(3):  # TorchScript optimises what it has seen
        call(*inputs)
    other = [x * 1.5 for x in inputs]  # a box outgrown too
    logs = [trace(call, *values)[0] for values in (inputs, other)]
    assert logs[0] == logs[1]
    shapes = [tuple(x.shape) for x in inputs]
    _, results = trace_on_fake_gpu(call, *shapes, module=scripted)
    assert results[0].is_cuda
    assert results[6].shape == (5, 3)
