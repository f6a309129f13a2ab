"""The free energy of putting an LES model in the place of a force field, by MBAR.

    python 09_mm_to_mlmm_free_energy.py [--embedding mechanical] [--windows 9] [--samples 100]

The energy is that of the force field at lambda = 0, that of ML/MM at 1, and linear in between.
Alanine dipeptide is taken from 0 to 1 in vacuum and in water. The free energy of either holds a
large constant, since a model and a force field count energies from zeros of their own; it cancels
in the difference of the two, by which the model changes the free energy of hydration.

Such corrections are added to free energies that were computed with the force field alone (binding,
hydration), which takes far fewer evaluations of the model than to compute all with it. What makes
them reliable is overlap: samples of each window must be likely in its neighbours too. The numbers
of a run of minutes are an illustration.
"""

import argparse
import csv
import logging
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential
from pictures import draw_overlap

logging.getLogger("pymbar").setLevel(logging.ERROR)  # it would advertise JAX
try:
    from pymbar import MBAR, bar, timeseries
except ImportError:
    sys.exit("This needs pymbar: pip install 'openmm-les[examples]'")

HERE = Path(__file__).parent
KT = (unit.MOLAR_GAS_CONSTANT_R * 300 * unit.kelvin).value_in_unit(unit.kilojoule_per_mole)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="les-demo", help="name of a model, or artifact (.les.pt)")
parser.add_argument("--embedding", choices=["mechanical", "electrostatic"], default="mechanical")
parser.add_argument("--padding", type=float, default=1.0, help="water around the peptide [nm]")
parser.add_argument("--windows", type=int, default=9, help="values of lambda")
parser.add_argument("--samples", type=int, default=100, help="samples of each window")
parser.add_argument("--interval", type=int, default=40, help="steps of 0.5 fs between samples")
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # 22 atoms are too few to share

options = {"embedding": arguments.embedding}
if arguments.embedding == "electrostatic" and arguments.model == "les-demo":
    options["chargeTolerance"] = 0.5  # its charges miss a sum of zero by 0.3 e
forcefield = app.ForceField("amber14-all.xml", "amber14/tip3p.xml")
lambdas = np.linspace(0, 1, arguments.windows)


def sample(topology, positions, **method) -> list[np.ndarray]:
    """Run all windows, one after the other.

    Returns:
        U(lambda = 1) - U(lambda = 0) of each sample, in kT, for each window.
    """
    # The bonds of the peptide have to be there at small lambda: no constraints but in water.
    mm_system = forcefield.createSystem(topology, constraints=None, rigidWater=True, **method)
    peptide = [atom.index for atom in topology.atoms() if atom.residue.name != "HOH"]
    system = MLPotential("les", modelPath=arguments.model).createMixedSystem(
        topology, mm_system, peptide, interpolate=True, **options
    )
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator)
    context = simulation.context
    context.setPositions(positions)
    context.setParameter("lambda_interpolate", 0.0)
    simulation.minimizeEnergy(maxIterations=100)
    context.setVelocitiesToTemperature(300 * unit.kelvin, 1)

    def energy(value: float) -> float:
        context.setParameter("lambda_interpolate", value)
        return context.getState(energy=True).getPotentialEnergy()._value / KT

    differences = []
    for value in lambdas:
        context.setParameter("lambda_interpolate", value)
        simulation.step(arguments.samples * arguments.interval // 5)  # to equilibrate
        window = []
        for _ in range(arguments.samples):
            context.setParameter("lambda_interpolate", value)
            simulation.step(arguments.interval)
            window.append(energy(1.0) - energy(0.0))
        differences.append(np.array(window))
        print(f"  lambda {value:5.3f}: U(1) - U(0) = {KT * np.mean(window):.1f} kJ/mol", flush=True)
    return differences


def analyse(differences: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Free energies from what `sample` returns.

    Returns:
        For each lambda the free energy [kJ/mol] by MBAR, its standard error, that by BAR and by
        thermodynamic integration, shape (windows, 4); the overlap matrix; the numbers of samples
        that count.
    """
    # Samples that still remember the last one would make errors look smaller than they are.
    kept = [d[timeseries.subsample_correlated_data(d)] for d in differences]
    # At lambda the energy is U_0 + lambda (U_1 - U_0). U_0 is the same in all states, so that MBAR
    # needs only the second term. The mean of U_1 - U_0 is large and says nothing about overlap: it
    # is left out until the end.
    offset = np.mean(np.concatenate(kept))
    kept = [d - offset for d in kept]
    u_kn = lambdas[:, None] * np.concatenate(kept)
    mbar = MBAR(u_kn, [len(d) for d in kept])
    result = mbar.compute_free_energy_differences()

    step = lambdas[1] - lambdas[0]
    means = np.array([d.mean() for d in kept])
    by_bar = [bar(step * a, -step * b)["Delta_f"] for a, b in pairwise(kept)]
    by_integration = step * (means[1:] + means[:-1]) / 2
    others = [np.concatenate([[0.0], np.cumsum(parts)]) for parts in (by_bar, by_integration)]

    constant = lambdas * offset
    columns = [result["Delta_f"][0] + constant, result["dDelta_f"][0]]
    columns += [other + constant for other in others]
    numbers = np.array([len(d) for d in kept])
    return KT * np.transpose(columns), mbar.compute_overlap()["matrix"], numbers


# 1. In vacuum and in water.
pdb = app.PDBFile(str(HERE / "alanine_dipeptide.pdb"))
modeller = app.Modeller(pdb.topology, pdb.positions)
modeller.addSolvent(forcefield, padding=arguments.padding * unit.nanometer)
pdb.topology.setPeriodicBoxVectors(None)
cutoff = min(0.9, 0.95 * arguments.padding) * unit.nanometer
print("vacuum")
runs = {"vacuum": sample(pdb.topology, pdb.positions)}
print("water")
runs["water"] = sample(
    modeller.topology, modeller.positions, nonbondedMethod=app.PME, nonbondedCutoff=cutoff
)

# 2. Free energies, and whether the windows overlap.
corrections = {}
for name, differences in runs.items():
    table, overlap, numbers = analyse(differences)
    corrections[name] = table[-1]
    print(f"\n{name}: free energy [kJ/mol], counted from the force field's")
    print(f"{'lambda':>8}{'samples':>8}{'MBAR':>12}{'+-':>8}{'BAR':>12}{'TI':>12}")
    for value, number, row in zip(lambdas, numbers, table, strict=True):
        print(f"{value:8.3f}{number:8d}{row[0]:12.2f}{row[1]:8.2f}{row[2]:12.2f}{row[3]:12.2f}")
    print(
        "overlap: how likely samples of the window of a row are in each window; neighbours: > 0.03"
    )
    for row in overlap:
        print("".join(f"{value:7.3f}" for value in row))
    with open(arguments.output / f"free_energy_{name}.csv", "w", newline="") as file:
        header = ["lambda", "MBAR [kJ/mol]", "error", "BAR", "TI"]
        csv.writer(file).writerows([header, *np.column_stack([lambdas, table])])
    np.savetxt(arguments.output / f"overlap_{name}.csv", overlap, delimiter=",")

vacuum, water = corrections["vacuum"], corrections["water"]
correction, error = water[0] - vacuum[0], np.hypot(water[1], vacuum[1])
print(
    f"\nThe model changes the free energy of hydration by {correction:.2f} +- {error:.2f} kJ/mol."
)
print(f"BAR: {water[2] - vacuum[2]:.2f}, TI: {water[3] - vacuum[3]:.2f}")
print(f"Wrote free energies and overlap matrices to {arguments.output}.")
print(draw_overlap(arguments.output))
