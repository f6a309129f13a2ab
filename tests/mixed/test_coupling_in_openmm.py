"""The coupling against OpenMM itself: what a force field's charges do when they are split in two.

The region's charges are those of the force field, so that MM with the region's charges set to zero,
the region by itself and the coupling must add up to the whole. Everything but Coulomb interactions
is left out.
"""

from dataclasses import dataclass, field

import numpy as np
import openmm
import pytest
import torch
from openmm import NonbondedForce, Vec3, app, unit
from support.charges import tensor
from support.helpers import ROOT

from openmm_les.electrostatics.embedding import build_coupling
from openmm_les.units import (
    ANGSTROM_PER_NM,
    COULOMB_CONSTANT,
    FORCE_PER_EV_PER_ANGSTROM,
    KJ_PER_MOL_PER_EV,
)

CUTOFF = 0.9  # nm
BOXES = {
    "cubic": ((2.4, 0, 0), (0, 2.4, 0), (0, 0, 2.4)),
    "triclinic": ((2.5, 0, 0), (0.7, 2.5, 0), (-0.9, 1.1, 2.4)),
}
#: Atoms of ACE-ALA-NME: all of it, and parts whose bonds to the rest are cut.
REGIONS = {"peptide": range(22), "alanine": range(6, 16), "side chain": [13, 10, 12, 11]}
METHODS = ["NoCutoff", "CutoffNonPeriodic", "CutoffPeriodic", "Ewald", "PME", "LJPME"]


@dataclass
class Charges:
    """Charges, exceptions and positions [nm] of a force field's System.

    Attributes:
        values: shape (n,) [e].
        exceptions: products of charges [e^2] by pairs of atoms.
        positions: shape (n, 3) [nm].
        box: lattice vectors in rows [nm].
        whole: energy and forces of all charges, by method.
    """

    values: np.ndarray
    exceptions: dict[tuple[int, int], float]
    positions: np.ndarray
    box: np.ndarray
    whole: dict = field(default_factory=dict)

    @property
    def is_rectangular(self) -> bool:
        return bool((self.box == np.diag(np.diag(self.box))).all())

    def platform_for(self, method: str) -> str:
        """In triclinic boxes the Reference platform of OpenMM 8.6 misses pairs near the cutoff."""
        exact = method != "CutoffPeriodic" or self.is_rectangular
        return "Reference" if exact else "CPU"

    def energy_and_forces(self, method: str, charges: np.ndarray, exceptions=None):
        """Coulomb energy [eV] and forces [eV/A]."""
        system, force = openmm.System(), NonbondedForce()
        system.setDefaultPeriodicBoxVectors(*self.box)
        for charge in charges:
            system.addParticle(1.0)
            force.addParticle(charge, 0.3, 0.0)
        for pair, product in (self.exceptions if exceptions is None else exceptions).items():
            force.addException(*pair, product, 0.3, 0.0)
        force.setNonbondedMethod(getattr(NonbondedForce, method))
        force.setCutoffDistance(CUTOFF)
        force.setEwaldErrorTolerance(1e-7)
        if not self.is_rectangular:
            force.setPMEParameters(5.5, 216, 216, 216)  # nothing is left near the cutoff
        force.setUseDispersionCorrection(False)
        if method == "LJPME":  # a mesh as fine for what is zero anyway takes a minute
            force.setLJPMEParameters(3.0, 20, 20, 20)
        system.addForce(force)
        platform = openmm.Platform.getPlatformByName(self.platform_for(method))
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(self.positions)
        state = context.getState(energy=True, forces=True)
        forces = state.getForces(asNumpy=True)._value / FORCE_PER_EV_PER_ANGSTROM
        return state.getPotentialEnergy()._value / KJ_PER_MOL_PER_EV, forces


@pytest.fixture(scope="module", params=BOXES)
def solvated(request) -> Charges:
    """The dipeptide of the examples in water."""
    pdb = app.PDBFile(str(ROOT / "examples" / "alanine_dipeptide.pdb"))
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    vectors = tuple(Vec3(*v) for v in BOXES[request.param]) * unit.nanometer
    modeller.addSolvent(field, boxVectors=vectors)
    system = field.createSystem(modeller.topology, nonbondedMethod=app.PME, constraints=None)
    (force,) = (f for f in system.getForces() if isinstance(f, NonbondedForce))
    parameters = [force.getParticleParameters(i)[0]._value for i in range(force.getNumParticles())]
    exceptions = {}
    for index in range(force.getNumExceptions()):
        i, j, product, *_ = force.getExceptionParameters(index)
        exceptions[i, j] = product._value
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return Charges(np.array(parameters), exceptions, positions, np.array(BOXES[request.param]))


def split(charges: Charges, region, values) -> tuple[np.ndarray, np.ndarray, dict, dict, list]:
    """MM charges, ML charges, both sets of exceptions, and the scaled pairs across the boundary."""
    place = {atom: i for i, atom in enumerate(region)}
    others = [i for i in range(len(values)) if i not in place]
    mm_place = {atom: j for j, atom in enumerate(others)}
    ml, mm = np.zeros_like(values), np.zeros_like(values)
    ml[list(region)], mm[others] = values[list(region)], values[others]
    ml_exceptions, mm_exceptions = dict(charges.exceptions), dict(charges.exceptions)
    scaled = []
    for (i, j), product in charges.exceptions.items():
        if i in place and j in place:
            mm_exceptions[i, j] = 0.0
            continue
        ml_exceptions[i, j] = 0.0
        if i in place or j in place:
            mm_exceptions[i, j] = 0.0
            inner, outer = (i, j) if i in place else (j, i)
            factor = product / (values[i] * values[j])
            scaled.append((place[inner], mm_place[outer], factor))
    return ml, mm, ml_exceptions, mm_exceptions, scaled


def couple(charges: Charges, method: str, region, values, scaled, **options):
    """The coupling of a region of the same charges."""
    others = [i for i in range(len(values)) if i not in region]
    cell, r = tensor(charges.box) * ANGSTROM_PER_NM, tensor(charges.positions) * ANGSTROM_PER_NM
    coupling = build_coupling(
        method,
        cell=cell,
        cutoff=CUTOFF * ANGSTROM_PER_NM,
        tolerance=1e-9,
        scaled_pairs=scaled,
        **options,
    )
    q, region = tensor(values), list(region)
    result = torch.jit.script(coupling)(q[region], r[region], q[others], r[others], cell)
    forces = np.zeros_like(charges.positions)
    forces[region], forces[others] = -result.gradient, -result.mm_gradient
    return result, forces


def assert_adds_up(charges, method, region, values, charged_exceptions):
    """Whole = MM + region + coupling."""
    ml, mm, ml_exceptions, mm_exceptions, scaled = split(charges, region, values)
    if method not in charges.whole:
        charges.whole[method] = charges.energy_and_forces(method, values, charged_exceptions)
    whole = charges.whole[method]
    rest = charges.energy_and_forces(method, mm, mm_exceptions)
    inner = charges.energy_and_forces(method, ml, ml_exceptions)
    result, forces = couple(charges, method, region, values, scaled, images=False)
    energy = whole[0] - rest[0] - inner[0]
    expected = whole[1] - rest[1] - inner[1]
    # OpenMM's numerics are the less accurate: a mesh, or the single precision of its CPU platform.
    relative = 3e-6 if method in ("Ewald", "PME", "LJPME") else 1e-11
    relative = relative if charges.platform_for(method) == "Reference" else 1e-4
    assert float(result.energy) == pytest.approx(energy, abs=relative)
    assert np.linalg.norm(forces - expected) < relative * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("method", "region"),
    [*((method, "alanine") for method in METHODS), ("PME", "peptide"), ("NoCutoff", "side chain")],
)
def test_force_field_charges_add_up(solvated, method, region):
    if method == "Ewald" and not solvated.is_rectangular:
        pytest.skip("OpenMM's Ewald sum is for rectangular boxes")
    atoms = list(REGIONS[region])
    assert_adds_up(solvated, method, atoms, solvated.values, solvated.exceptions)


def test_net_charges_add_up(solvated):
    """Q_ML = +1 and Q_MM = -2: the background across the boundary alone is over 1 kJ/mol."""
    atoms = list(REGIONS["peptide"])
    others = np.setdiff1d(np.arange(len(solvated.values)), atoms)
    values = solvated.values.copy()
    values[atoms] += 1 / len(atoms)
    values[others] -= 2 / len(others)
    exceptions = {}
    for (i, j), product in solvated.exceptions.items():
        factor = product / (solvated.values[i] * solvated.values[j])
        exceptions[i, j] = factor * values[i] * values[j]
    charged = Charges(values, exceptions, solvated.positions, solvated.box)
    assert_adds_up(charged, "PME", atoms, values, exceptions)


@pytest.mark.parametrize("net", [0.0, -1.0])
def test_images_of_a_region_add_up(solvated, net):
    """A cluster in a box is the cluster alone and its images."""
    atoms = list(REGIONS["peptide"])
    values = np.zeros_like(solvated.values)
    values[atoms] = solvated.values[atoms] + net / len(atoms)
    method = "Ewald" if solvated.is_rectangular else "PME"
    boxed = solvated.energy_and_forces(method, values, {})
    alone = solvated.energy_and_forces("NoCutoff", values, {})
    result, forces = couple(solvated, method, atoms, values, [])
    expected = boxed[0] - alone[0]
    assert float(result.energy) == pytest.approx(expected, abs=1e-6)
    expected = boxed[1] - alone[1]
    assert np.linalg.norm(forces - expected) < 1e-6
    assert np.linalg.norm(expected) > 1e-3


def test_coulomb_constant_is_that_of_openmm():
    pair = Charges(np.ones(2), {}, np.array([[0.0, 0, 0], [0.1, 0, 0]]), 3 * np.eye(3))
    energy, _ = pair.energy_and_forces("NoCutoff", pair.values)
    assert pytest.approx(energy, rel=1e-13) == COULOMB_CONSTANT
