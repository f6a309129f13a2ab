"""Peptides in water for the tests of ML/MM, with what is computed from them."""

import copy
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import Vec3, app, unit
from openmmml import MLPotential
from support.contexts import PLATFORMS  # registers the potentials
from support.helpers import ROOT

from openmm_les.plugin.forces import MOLECULES_NAME

__all__ = ["PLATFORMS"]

NM, MOLAR = unit.nanometer, unit.molar
METHODS = [
    app.NoCutoff,
    app.CutoffNonPeriodic,
    app.CutoffPeriodic,
    app.Ewald,
    app.PME,
    app.LJPME,
]
WATERS = {"tip3p": "amber14/tip3p.xml", "tip4pew": "amber14/tip4pew.xml"}
PHENYLALANINE = 16  # a residue of villin
PEPTIDE = ("ACE", "ALA", "NME")
SIDE_CHAIN = ("CB", "HB1", "HB2", "HB3")


@dataclass(frozen=True)
class Structure:
    """A topology with positions [nm]."""

    topology: app.Topology
    positions: np.ndarray

    def atoms(self, *names, residue="ALA") -> list[int]:
        """Indices of atoms of a residue by name, in the order of the names; all without names."""
        found = {a.name: a.index for a in self.topology.atoms() if a.residue.name == residue}
        return [found[name] for name in names] if names else list(found.values())

    @property
    def peptide(self) -> list[int]:
        return [a.index for a in self.topology.atoms() if a.residue.name in PEPTIDE]

    @property
    def side_chain(self) -> list[int]:
        """A methyl group: one cut bond, between carbon atoms."""
        return self.atoms(*SIDE_CHAIN)

    def side_chain_of(self, residue) -> list[int]:
        """Atoms of a residue, given by index, that are not of the backbone."""
        atoms = [a for a in self.topology.atoms() if a.residue.index == residue]
        return [a.index for a in atoms if a.name not in ("N", "H", "CA", "HA", "C", "O")]

    def waters(self, number) -> list[int]:
        """Atoms of the first waters, with their virtual sites."""
        residues = [r for r in self.topology.residues() if r.name == "HOH"][:number]
        return [atom.index for residue in residues for atom in residue.atoms()]

    def only(self, atoms) -> "Structure":
        """The structure without all other atoms."""
        kept = set(atoms)
        modeller = app.Modeller(self.topology, self.positions * NM)
        modeller.delete([a for a in self.topology.atoms() if a.index not in kept])
        return Structure(modeller.topology, bare(modeller.positions))

    def in_box(self, vectors) -> "Structure":
        """The structure in another box [nm]; None for no box. Structures are shared by tests."""
        topology = copy.deepcopy(self.topology)
        topology.setPeriodicBoxVectors(vectors if vectors is None else np.array(vectors))
        return Structure(topology, self.positions)


def bare(positions) -> np.ndarray:
    return np.array(positions.value_in_unit(NM))


@cache
def peptide_in_water(water="tip3p", size=1.9, salt=0.0) -> Structure:
    """Alanine dipeptide in a cubic box, with sodium chloride [mol/l]."""
    pdb = app.PDBFile(str(ROOT / "examples" / "alanine_dipeptide.pdb"))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    box = Vec3(size, size, size) * NM
    random.seed(1)  # OpenMM draws the places of ions
    modeller.addSolvent(field(water), model=water, boxSize=box, ionicStrength=salt * MOLAR)
    return Structure(modeller.topology, bare(modeller.positions))


@cache
def field(water="tip3p") -> app.ForceField:
    return app.ForceField("amber14-all.xml", WATERS[water])


@cache
def peptide() -> Structure:
    """Alanine dipeptide in vacuum."""
    return peptide_in_water().only(peptide_in_water().peptide).in_box(None)


@cache
def villin_box() -> Structure:
    """Villin headpiece in water, 8867 atoms, from OpenMM's own files."""
    pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "test.pdb"))
    return Structure(pdb.topology, bare(pdb.positions))


@cache
def villin() -> Structure:
    """The protein alone, 582 atoms."""
    protein = [a.index for a in villin_box().topology.atoms() if a.residue.index < 35]
    return villin_box().only(protein)


def classical(structure, method=app.PME, water="tip3p", cutoff=0.7, **options) -> openmm.System:
    """The force field's System, without constraints."""
    options = {"constraints": None, "rigidWater": False, "ewaldErrorTolerance": 1e-5} | options
    forcefield = options.pop("forcefield", None) or field(water)
    return forcefield.createSystem(
        structure.topology, nonbondedMethod=method, nonbondedCutoff=cutoff * NM, **options
    )


@cache
def villin_by_charmm() -> openmm.System:
    """Villin by CHARMM36, many of whose terms are custom forces."""
    forcefield = app.ForceField("charmm36.xml")
    return classical(villin(), app.CutoffNonPeriodic, forcefield=forcefield, cutoff=0.9)


def mixed(structure, system, atoms, **options):
    """The mixed System of the bundled model, in force group 1."""
    options = {"precision": "double", "forceGroup": 1} | options
    potential = MLPotential("les-demo")
    return potential.createMixedSystem(structure.topology, system, atoms, **options)


def context(system, positions, platform="Reference", integrator=None) -> openmm.Context:
    """Context of one thread at `positions` [nm]; virtual link atoms get theirs."""
    properties = {"Threads": "1"} if platform == "CPU" else {}
    integrator = integrator or openmm.VerletIntegrator(0.0005)
    made = openmm.Context(
        system, integrator, openmm.Platform.getPlatformByName(platform), properties
    )
    place(made, positions)
    return made


def mixed_context(structure, system, atoms, platform="Reference", **options) -> openmm.Context:
    """Context of the mixed System at the positions of the structure."""
    return context(mixed(structure, system, atoms, **options), structure.positions, platform)


def place(made, positions) -> None:
    """Set positions [nm] of all particles but the link atoms, and compute those of sites."""
    added = made.getSystem().getNumParticles() - len(positions)
    made.setPositions(np.concatenate([positions, np.zeros((added, 3))]))
    made.computeVirtualSites()


def energy(made, groups=-1) -> float:
    """Potential energy [kJ/mol]."""
    return made.getState(energy=True, groups=groups).getPotentialEnergy()._value


def forces(made, groups=-1) -> np.ndarray:
    """Forces [kJ/mol/nm]."""
    return made.getState(forces=True, groups=groups).getForces(asNumpy=True)._value


def relaxed(system, structure, platform="CPU", iterations=40, **integration):
    """A Context at a local minimum, with velocities."""
    made = context(system, structure.positions, platform, **integration)
    openmm.LocalEnergyMinimizer.minimize(made, 10.0, iterations)
    made.setVelocitiesToTemperature(300.0, 2)
    return made


def total_energy(made) -> float:
    state = made.getState(energy=True)
    return (state.getPotentialEnergy() + state.getKineticEnergy())._value


def nonbonded(system) -> openmm.NonbondedForce:
    return next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))


def terms(system, kind) -> list[list[int]]:
    """Particles of the terms of all forces of a class but our own, through the API."""
    counts = {"Bond": 2, "Angle": 3, "Torsion": 4}
    name = next(name for name in counts if name in kind)
    found = []
    for force in system.getForces():
        if type(force).__name__ == kind and force.getName() != MOLECULES_NAME:
            number = getattr(force, f"getNum{name}s")()
            get = getattr(force, f"get{name}Parameters")
            found += [get(i)[: counts[name]] for i in range(number)]
    return found


def assert_forces_are_gradients(
    made, positions, atoms, step=2e-6, tolerance=2e-6, groups=-1
) -> None:
    """Central differences of the energy agree with the forces, for each atom in one direction.

    Args:
        tolerance: relative to the largest force on these atoms.
        groups: force groups that are looked at.
    """
    place(made, positions)
    got = forces(made, groups)
    scale = np.abs(got[atoms]).max()
    directions = np.random.default_rng(5).normal(size=(len(atoms), 3))
    for atom, direction in zip(atoms, directions, strict=True):
        ends = []
        for sign in (1, -1):
            moved = positions.copy()
            moved[atom] += sign * step * direction
            place(made, moved)
            ends.append(energy(made, groups))
        numeric = -(ends[0] - ends[1]) / (2 * step)
        assert abs(numeric - got[atom] @ direction) < tolerance * scale, atom
    place(made, positions)


def assert_pressure_is_the_derivative(system, structure, platform) -> None:
    """Molecules are scaled as a whole, the ML one too: by hand, and as a barostat does it.

    Args:
        system: gets a barostat.
    """
    barostat = openmm.MonteCarloBarostat(1.0, 300.0, 25)
    system.addForce(barostat)
    made = context(system, structure.positions, platform)
    box = bare(structure.topology.getPeriodicBoxVectors())
    volume, step = np.linalg.det(box), 1e-3
    energies = []
    for sign in (1, -1):
        scale = (1 + sign * step) ** (1 / 3)
        positions = structure.positions.copy()
        for molecule in made.getMolecules():
            centre = structure.positions[list(molecule)].mean(axis=0)
            positions[list(molecule)] += (scale - 1) * centre
        made.setPeriodicBoxVectors(*(box * scale))
        made.setPositions(positions)
        energies.append(energy(made))
    made.setPeriodicBoxVectors(*box)
    made.setPositions(structure.positions)
    virial = -(energies[0] - energies[1]) / (2 * step * volume)
    # Ideal part: 3/2 kT for each molecule, by the barostat's own account with masses at rest.
    made.setVelocities(np.zeros((system.getNumParticles(), 3)))
    pressure = barostat.computeCurrentPressure(made)
    bar = 16.6053906717  # kJ/mol/nm^3
    assert pressure._value / bar == pytest.approx(virial, abs=0.02 * abs(virial))
    assert abs(virial) > 1.0


ELECTROSTATIC = {"embedding": "electrostatic"}


def embedded(structure, system, atoms, **options):
    return mixed(structure, system, atoms, **(ELECTROSTATIC | options))


def embedded_context(structure, system, atoms, platform="Reference", **options) -> openmm.Context:
    return mixed_context(structure, system, atoms, platform, **(ELECTROSTATIC | options))
