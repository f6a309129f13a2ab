"""Ligands and a host with the model, in complexes that were set up with AMBER's own tools.

Each complex comes with prmtop files of its parts, which tell what the force field says of the
region alone. The files are data of openmmtools, which is not imported.
"""

import copy
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import erfc
from pathlib import Path

import numpy as np
import openmm
import pytest
from ase import Atoms
from openmm import Vec3, unit
from openmmml import MLPotential
from support.documents import DOCS, blocks
from support.mixed import (
    app,
    assert_forces_are_gradients,
    bare,
    context,
    energy,
    forces,
    mixed,
    nonbonded,
)

from openmm_les import catalog
from openmm_les.ase import LESCalculator

PACKAGE = find_spec("openmmtools")

pytestmark = pytest.mark.skipif(
    PACKAGE is None, reason="needs the data of openmmtools (`make test` installs them)"
)

COULOMB = 138.93545764438198  # kJ/mol nm / e^2
WIDTH = 0.1  # of the charges of les-demo [nm]
EMBEDDINGS = {
    "mechanical": {},
    # The bundled model knows neither aromatic rings nor cages. Images as in mechanical embedding.
    "electrostatic": {"embedding": "electrostatic", "chargeTolerance": 100.0, "mlImages": "native"},
}


@dataclass(frozen=True)
class Complex:
    """A complex by its force field, and the region that gets the model.

    Attributes:
        topology: of the complex.
        system: likewise.
        positions: [nm].
        region: its atoms.
        part: topology of the region alone, in the same box.
        part_system: System of the region alone.
        platform: double precision for what is small.
    """

    topology: app.Topology
    system: openmm.System
    positions: np.ndarray
    region: list[int]
    part: app.Topology
    part_system: openmm.System
    platform: str

    def context(self, system) -> openmm.Context:
        return context(system, self.positions, self.platform)

    def context_of_part(self, system) -> openmm.Context:
        return context(system, self.positions[self.region], self.platform)


# Name: complex and region among the data, and the box of what has none [nm].
COMPLEXES = {
    "guest": ("cb7-b2/complex-vacuum.inpcrd", "cb7-b2/ligand.prmtop", None),
    "host": ("cb7-b2/complex-vacuum.inpcrd", "cb7-b2/receptor.prmtop", None),
    "guest in water": ("cb7-b2/complex-explicit.inpcrd", "cb7-b2/ligand.prmtop", None),
    "ligand of lysozyme": (
        "T4-lysozyme-L99A-implicit/complex.crd",
        "T4-lysozyme-L99A-implicit/ligand.prmtop",
        7.5,
    ),
}


@cache
def load(name) -> Complex:
    coordinates, part, size = COMPLEXES[name]
    data = Path(PACKAGE.origin).parent / "data"
    found = app.AmberInpcrdFile(str(data / coordinates))
    box = [Vec3(*row) for row in np.eye(3) * size] * unit.nanometer if size else found.boxVectors
    files = (data / coordinates).with_suffix(".prmtop"), data / part
    whole, alone = (app.AmberPrmtopFile(str(file), periodicBoxVectors=box) for file in files)
    options = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.9 * unit.nanometer} if box else {}
    options["ewaldErrorTolerance"] = 1e-5
    options |= {"constraints": app.HBonds, "flexibleConstraints": True}
    system, part_system = (p.createSystem(**options) for p in (whole, alone))
    (residue,) = alone.topology.residues()
    region = [a.index for a in whole.topology.atoms() if a.residue.name == residue.name]
    return Complex(
        whole.topology,
        system,
        bare(found.positions),
        region,
        alone.topology,
        part_system,
        "CPU" if box else "Reference",
    )


@cache
def classical(name) -> openmm.Context:
    return load(name).context(load(name).system)


@cache
def embedded(name, embedding, **options) -> openmm.Context:
    chosen = load(name)
    options = EMBEDDINGS[embedding] | options
    return chosen.context(mixed(chosen, chosen.system, chosen.region, **options))


def allowed(name) -> dict[str, float]:
    """Errors of energies [kJ/mol] and forces [kJ/mol/nm]: the CPU platform is single precision."""
    is_single = load(name).platform == "CPU"
    return {"energy": 0.05, "force": 0.5} if is_single else {"energy": 1e-6, "force": 1e-6}


@pytest.mark.parametrize("name", COMPLEXES)
def test_region_is_exchanged(name):
    """E = E_MM - E_MM(ML-ML) + E_ML, and as many molecules as before."""
    chosen = load(name)
    made, whole = embedded(name, "mechanical"), classical(name)
    nonbonded(chosen.part_system).setUseDispersionCorrection(False)  # stays that of the whole
    part = chosen.context_of_part(chosen.part_system)
    model = MLPotential("les-demo").createSystem(chosen.part, precision="double")
    model = chosen.context_of_part(model)

    expected = energy(whole) - energy(part) + energy(model)
    assert abs(energy(model) - energy(part)) > 100.0
    assert energy(made) == pytest.approx(expected, abs=allowed(name)["energy"])
    expected = forces(whole)
    expected[chosen.region] += forces(model) - forces(part)
    np.testing.assert_allclose(forces(made), expected, atol=allowed(name)["force"], rtol=1e-5)
    assert len(made.getMolecules()) == len(whole.getMolecules())


@pytest.mark.parametrize("name", COMPLEXES)
def test_charges_are_exchanged(name):
    """Electrostatic embedding: the Coulomb energy of both sets of charges with all others."""
    chosen = load(name)
    force = nonbonded(chosen.system)
    number = len(chosen.positions)
    charges = np.array([force.getParticleParameters(i)[0]._value for i in range(number)])
    classical_charges = charges[chosen.region]
    charges[chosen.region] = 0.0
    calculator = LESCalculator(catalog.artifact_path("les-demo"))
    symbols = [atom.element.symbol for atom in chosen.part.atoms()]
    atoms = Atoms(symbols, 10 * chosen.positions[chosen.region], calculator=calculator)
    latent = calculator.artifact.metadata["charge_sign"] * atoms.get_charges()
    latent -= latent.mean()  # all of these regions are neutral

    expected = coulomb(chosen, [classical_charges, latent], charges)
    expected[1] -= clouds(chosen, latent, charges)
    mechanical, electrostatic = (embedded(name, embedding) for embedding in EMBEDDINGS)
    found = energy(mechanical, {0}) - energy(electrostatic, {0})
    assert found == pytest.approx(expected[0], abs=allowed(name)["energy"])
    found = energy(electrostatic, {1}) - energy(mechanical, {1})
    assert abs(expected[1]) > 1.0
    assert found == pytest.approx(expected[1], abs=1e-3)


def coulomb(chosen, inside, outside) -> list[float]:
    """Coulomb energy of the region and all others, by OpenMM's own sum [kJ/mol].

    Args:
        inside: sets of charges of the region [e].
        outside: charges of all particles, 0 in the region [e].
    """
    box = chosen.topology.getPeriodicBoxVectors()

    def own(charges) -> float:
        system = openmm.System()
        force = openmm.NonbondedForce()
        for charge in charges:
            system.addParticle(0.0)
            force.addParticle(charge, 1.0, 0.0)
        if box is not None:
            system.setDefaultPeriodicBoxVectors(*box)
            force.setNonbondedMethod(openmm.NonbondedForce.PME)
            force.setCutoffDistance(1.9)
            force.setEwaldErrorTolerance(1e-6)
        system.addForce(force)
        return energy(context(system, chosen.positions))

    energies, rest = [], own(outside)
    for charges in inside:
        alone = np.zeros_like(outside)
        alone[chosen.region] = charges
        energies.append(own(alone + outside) - own(alone) - rest)
    return energies


def clouds(chosen, inside, outside) -> float:
    """What is lacking because the charges inside are clouds: q Q erfc(r / width) / r [kJ/mol]."""
    total = 0.0
    for atom, charge in zip(chosen.region, inside, strict=True):
        distances = np.linalg.norm(chosen.positions - chosen.positions[atom], axis=1)
        for other in np.flatnonzero((distances < 8 * WIDTH) & (outside != 0.0)):
            r = distances[other]
            total += COULOMB * charge * outside[other] * erfc(r / WIDTH) / r
    return total


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("name", ["guest", "guest in water"])
def test_ends_of_interpolation(name, embedding):
    made = embedded(name, embedding, interpolate=True)
    for value, end in enumerate((classical(name), embedded(name, embedding))):
        made.setParameter("lambda_interpolate", float(value))
        assert energy(made) == pytest.approx(energy(end), abs=allowed(name)["energy"])


def test_missing_bonds_are_told(caplog):
    """As of a ligand whose residue has nonbonded parameters alone."""
    chosen = load("guest")
    system = copy.deepcopy(chosen.system)
    mixed(chosen, system, chosen.region, interpolate=True)
    assert "no bond term" not in caplog.text
    (index,) = (i for i, f in enumerate(system.getForces()) if "HarmonicBond" in f.getName())
    system.removeForce(index)
    for i in reversed(range(system.getNumConstraints())):
        system.removeConstraint(i)
    mixed(chosen, system, chosen.region, interpolate=True)
    assert "no bond term between " in caplog.text
    assert "nothing may hold these atoms together" in caplog.text


@pytest.mark.parametrize("name", ["guest", "guest in water", "ligand of lysozyme"])
def test_embedded_forces_are_gradients(name):
    """On two atoms of the region and the three other ones that are nearest to it."""
    chosen = load(name)
    centre = chosen.positions[chosen.region].mean(axis=0)
    order = np.argsort(np.linalg.norm(chosen.positions - centre, axis=1))
    others = [int(i) for i in order if i not in chosen.region][:3]
    assert_forces_are_gradients(
        embedded(name, "electrostatic"),
        chosen.positions,
        chosen.region[:2] + others,
        tolerance=1e-5,
        groups={1},
    )


def test_the_snippet_of_the_guide(tmp_path, monkeypatch):
    """The block of docs/howto/ml-mm.md, with the files of a real complex."""
    data = Path(PACKAGE.origin).parent / "data" / "cb7-b2"
    for suffix in (".prmtop", ".inpcrd"):
        shutil.copy(data / f"complex-explicit{suffix}", tmp_path / f"complex{suffix}")
    monkeypatch.chdir(tmp_path)
    (block,) = (
        b for b in blocks(DOCS / "howto" / "ml-mm.md") if b.elsewhere.endswith(Path(__file__).name)
    )
    names = {"app": app, "potential": MLPotential("les-demo")}
    exec(block.code.replace("LIG", "B2"), names)
    assert len(names["ligand"]) == 30
    chosen = load("guest in water")
    made = chosen.context(names["mixed"])
    assert np.isfinite(energy(made))
