"""Infrared spectrum of a peptide from molecular dynamics, beside its harmonic vibrations.

    python 10_ir_spectrum_of_a_peptide.py [--steps 8000] [--water my_water.les.pt]

LESReporter writes the current J = sum_i Z_i v_i, Born effective charges times velocities, while the
simulation runs. The Fourier transform of its autocorrelation is the infrared spectrum; that of the
velocities is the density of vibrational states, infrared active or not. `openmm-les spectrum` makes
the same from the same file. The harmonic vibrations of the relaxed molecule, with intensities from
Born effective charges, show what is what: dynamics shifts and broadens them.

4 ps, the default, are for a look at it; the picture in the documents is of 50 ps. With an exported
model that knows water, --water does the same for a periodic box.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app, unit
from openmmml import MLPotential
from pictures import draw_infrared

from openmm_les import load_model
from openmm_les.analysis import formats, spectra
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.reporter import LESReporter

PDB = Path(__file__).parent / "alanine_dipeptide.pdb"
KELVIN = 300.0
STEP = 0.5 * unit.femtosecond
INTERVAL = 4  # steps between reports: 2 fs, a fifth of the period of a bond to hydrogen

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="les-demo", help="name of a model, or artifact")
parser.add_argument("--steps", type=int, default=8000, help="steps of 0.5 fs")
parser.add_argument("--equilibration", type=int, default=2000, help="steps before")
parser.add_argument("--water", type=Path, help="an exported model (.les.pt) for a box of water")
parser.add_argument("--waters", type=int, default=32)
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)
torch.set_num_threads(1)  # 22 atoms are too few to share


def simulate(name: str, model: str | Path, topology: app.Topology, positions) -> spectra.Spectrum:
    """Equilibrate, simulate with a reporter, and transform what it wrote."""
    system = MLPotential("les", modelPath=model).createSystem(topology)
    integrator = openmm.LangevinMiddleIntegrator(KELVIN, 10 / unit.picosecond, STEP)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(topology, system, integrator)
    simulation.context.setPositions(positions)
    simulation.minimizeEnergy(maxIterations=200)
    simulation.context.setVelocitiesToTemperature(KELVIN, 1)
    simulation.step(arguments.equilibration)

    # Friction broadens lines by friction / (2 pi c): 0.5/ps by 3/cm.
    integrator.setFriction(0.5 / unit.picosecond)
    file = arguments.output / f"{name}.csv"
    # Model and atoms are those of the System.
    simulation.reporters.append(LESReporter(file, INTERVAL, current=True, velocities=True))
    simulation.step(arguments.steps)

    spectrum = spectra.compute(
        formats.read(file), spectra.SpectrumOptions(temperature=KELVIN, window="gaussian")
    )
    (arguments.output / f"{name}_spectrum.csv").write_text(spectrum.to_csv())
    print(spectrum.summary())
    return spectrum


def hessian_of(model: SystemModel, masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Mass-weighted second derivatives [eV/A^2/u], by finite differences of forces."""
    delta, rows = 0.005, []
    for atom, axis in np.ndindex(positions.shape):
        forward, backward = positions.copy(), positions.copy()
        forward[atom, axis] += delta
        backward[atom, axis] -= delta
        change = model.evaluate(forward).forces - model.evaluate(backward).forces
        rows.append(-change.ravel() / (2 * delta))
    weights = 1 / np.sqrt(np.repeat(masses, 3))
    hessian = np.array(rows)
    return (hessian + hessian.T) / 2 * np.outer(weights, weights)


def vibrations(path: str, pdb: app.PDBFile) -> np.ndarray:
    """Wavenumbers [1/cm] and intensities [km/mol] of the relaxed molecule."""
    system = MLPotential("les", modelPath=path).createSystem(pdb.topology, precision="double")
    simulation = app.Simulation(pdb.topology, system, openmm.VerletIntegrator(STEP))
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy(tolerance=0.01)
    state = simulation.context.getState(positions=True)
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    masses = np.array([atom.element.mass / unit.dalton for atom in pdb.topology.atoms()])
    model = SystemModel(load_model(path), numbers, periodic=False, precision="double")
    values, modes = np.linalg.eigh(hessian_of(model, masses, positions))
    wavenumbers = np.sign(values) * np.sqrt(np.abs(values)) * 521.47  # eV/A^2/u to 1/cm
    born = model.response(positions).born_charges / np.sqrt(masses)[:, None, None]
    slopes = np.einsum("iab,ibk->ak", born, modes.reshape(len(masses), 3, -1))  # e/u^(1/2)
    intensities = 974.88 * (slopes**2).sum(axis=0)  # N_A / (12 eps0 c^2)
    return np.stack([wavenumbers, intensities], axis=1)[6:]  # the first move or turn it as a whole


pdb = app.PDBFile(str(PDB))
print(f"Alanine dipeptide, {arguments.steps * 0.0005:g} ps:")
spectrum = simulate("peptide", arguments.model, pdb.topology, pdb.positions)
modes = vibrations(arguments.model, pdb)
with open(arguments.output / "peptide_vibrations.csv", "w", newline="") as file:
    csv.writer(file).writerows([["wavenumber [1/cm]", "intensity [km/mol]"], *modes.tolist()])
total = spectra.integral(spectrum.wavenumber, spectrum.infrared)
print(f"Integrated intensity: {total:.0f} km/mol; harmonic: {modes[:, 1].sum():.0f} km/mol.")
strongest = modes[np.argsort(modes[:, 1])[::-1][:5]]
print("Strongest harmonic vibrations:", ", ".join(f"{w:.0f}" for w in sorted(strongest[:, 0])))

if arguments.water is None:
    print("No water: that takes a model which knows it (--water my_water.les.pt).")
else:
    print(f"{arguments.waters} waters:")
    forcefield = app.ForceField("amber14/tip3p.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(forcefield, numAdded=arguments.waters)
    simulate("water", arguments.water, modeller.topology, modeller.positions)

print(f"Wrote to {arguments.output}: NAME.csv (current, velocities) and NAME_spectrum.csv.")
print(draw_infrared(arguments.output))
