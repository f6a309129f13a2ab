"""OpenMM's platforms with the model on the device: precisions, embeddings, conservation."""

from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import Vec3, app, unit
from openmmml import MLPotential

from check.carried import DEMO
from check.contexts import new_context, platforms
from check.stages import Visit

_PEPTIDE = Path(__file__).parents[2] / "examples" / "alanine_dipeptide.pdb"
#: Largest difference of forces from the Reference platform [kJ/mol/nm]: OpenMM's own rounding.
_ALLOWED = {"single": 5.0, "mixed": 5.0, "double": 0.05}
_DRIFT_STEP = 0.0005
_DRIFT_STEPS = {True: 2000, False: 200}
_BLOCKS = 40


def embeddings_and_precisions(visit: Visit) -> None:
    """Pure ML, a part, both embeddings and interpolation, against Reference with the CPU."""
    topology, positions, classical = _peptide_in_water()
    for name in platforms() if visit.on_gpu else ("CPU",):
        precisions = ("single", "mixed", "double") if name != "CPU" else ("single",)
        for what in _SYSTEMS:
            with visit.piece(f"{name}/{what}") as found:
                system, r = _SYSTEMS[what](visit.device, topology, positions, classical)
                expected, r = _SYSTEMS[what]("cpu", topology, positions, classical)
                reference = _forces(expected, r, "Reference", None)
                for precision in precisions:
                    difference = np.abs(_forces(system, r, name, precision) - reference).max()
                    found[precision] = float(difference)
                found["ok"] = all(found[each] < _ALLOWED[each] for each in precisions)


def _peptide_in_water() -> tuple[app.Topology, np.ndarray, openmm.System]:
    pdb = app.PDBFile(str(_PEPTIDE))
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(field, boxSize=Vec3(2.0, 2.0, 2.0) * unit.nanometer)
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=0.8 * unit.nanometer,
        constraints=None,
        rigidWater=False,
        ewaldErrorTolerance=1e-5,
    )
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    return modeller.topology, positions, system


def _region(topology: app.Topology) -> list[int]:
    return [atom.index for atom in topology.atoms() if atom.residue.name in ("ACE", "ALA", "NME")]


def _pure(device: str, topology: Any, positions: np.ndarray, classical: Any) -> Any:
    pdb = app.PDBFile(str(_PEPTIDE))
    system = MLPotential(DEMO).createSystem(pdb.topology, precision="double", device=device)
    return system, np.array(pdb.positions.value_in_unit(unit.nanometer))


def _part(device: str, topology: Any, positions: np.ndarray, classical: Any) -> Any:
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*topology.getPeriodicBoxVectors())
    for i in range(topology.getNumAtoms()):
        system.addParticle(classical.getParticleMass(i))
    potential = MLPotential(DEMO)._impl
    potential.addForces(topology, system, _region(topology), 0, precision="double", device=device)
    return system, positions


def _mixed(**options: Any) -> Any:
    def make(device: str, topology: Any, positions: np.ndarray, classical: Any) -> Any:
        system = MLPotential(DEMO).createMixedSystem(
            topology, classical, _region(topology), precision="double", device=device, **options
        )
        return system, positions

    return make


_ELECTROSTATIC = {"embedding": "electrostatic", "chargeTolerance": 1.0}
_SYSTEMS = {
    "pure": _pure,
    "part": _part,
    "mechanical": _mixed(),
    "electrostatic": _mixed(**_ELECTROSTATIC),
    "mechanical_lambda": _mixed(interpolate=True),
    "electrostatic_lambda": _mixed(interpolate=True, **_ELECTROSTATIC),
}


def _forces(
    system: openmm.System, positions: np.ndarray, name: str, precision: str | None
) -> np.ndarray:
    context = new_context(system, openmm.VerletIntegrator(0.001), name, precision)
    context.setPositions(positions)
    if "lambda_interpolate" in context.getParameters():
        context.setParameter("lambda_interpolate", 0.4)
    forces: np.ndarray = context.getState(forces=True).getForces(asNumpy=True)._value
    return forces


def drift(visit: Visit) -> None:
    """Total energy at constant energy: slope and scatter, for a peptide."""
    steps = _DRIFT_STEPS[visit.on_gpu]
    for name in platforms()[:1] if visit.on_gpu else ("CPU",):
        for precision in ("single", "double"):
            with visit.piece(f"{name}/{precision}") as found:
                found |= _drift(name, visit.device, precision, steps)


def _drift(name: str, device: str, precision: str, steps: int) -> dict[str, float]:
    pdb = app.PDBFile(str(_PEPTIDE))
    system = MLPotential(DEMO).createSystem(pdb.topology, precision=precision, device=device)
    context = new_context(system, openmm.VerletIntegrator(_DRIFT_STEP), name, "mixed")
    context.setPositions(pdb.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10.0, 50)
    context.setVelocitiesToTemperature(300.0, 1)
    energies = []
    for _ in range(_BLOCKS):
        context.getIntegrator().step(steps // _BLOCKS)
        state = context.getState(energy=True)
        energies.append((state.getPotentialEnergy() + state.getKineticEnergy())._value)
    times = np.arange(_BLOCKS) * (steps // _BLOCKS) * _DRIFT_STEP
    slope, start = np.polyfit(times, energies, 1)
    atoms = system.getNumParticles()
    return {
        "kJ_per_mol_per_ps_per_atom": float(slope / atoms),
        "scatter_kJ_per_mol_per_atom": float((energies - slope * times - start).std() / atoms),
        "ps": steps * _DRIFT_STEP,
    }
