"""Molecular dynamics of alanine dipeptide in vacuum with a trained LES model.

    python 01_md_of_a_peptide.py [--model my.model] [--pdb my.pdb] [--output demo-output]

Minimises, runs Langevin dynamics at 300 K, and writes a trajectory, a table and a picture. The
model is the demonstration model that comes with openmm-les, or any other: a checkpoint such as a
MACE-LES ``.model`` file, which is exported first, or an artifact ``.les.pt``.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import openmm
import torch
from openmm import app, unit
from openmm_les_export import export
from openmmml import MLPotential
from pictures import draw_md

from openmm_les import catalog
from openmm_les.errors import LESError

HERE = Path(os.path.relpath(Path(__file__).parent))
PICOSECONDS_PER_STEP = 0.0005
RECORD = 20  # steps between frames of the trajectory, and between rows of the table

NEXT = """\
Next:
  {bin}openmm-les inspect {artifact}   what this model is
  {bin}openmm-les doctor   what works on this machine, and what would make it faster
  {bin}python {here}/01_md_of_a_peptide.py --model my.model   your own model
  {bin}python {here}/01_md_of_a_peptide.py --pdb my.pdb   your own molecule, with hydrogens
  {bin}openmm-les run --structure {here}/alanine_dipeptide.pdb --model les-demo   no script
  {bin}python {here}/02_export_your_own_model.py   from a checkpoint to OpenMM and ASE"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="checkpoint or artifact; default: les-demo")
    parser.add_argument("--pdb", type=Path, default=HERE / "alanine_dipeptide.pdb")
    parser.add_argument("--steps", type=int, default=20000, help="steps of 0.5 fs")
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    return parser.parse_args()


def find_artifact(model: Path | None, output: Path) -> Path:
    """The model in the form that OpenMM runs."""
    if model is None:
        return catalog.artifact_path("les-demo")
    if not model.exists():
        sys.exit(
            f"--model: {model} does not exist. Give a trained MACE-LES model for H, C, N and O: "
            "`make demo MODEL=path/to/my.model`, or leave it out to use les-demo"
        )
    if model.name.endswith(".les.pt"):
        return model
    print(f"Exporting {model} and verifying the result ...")
    return export(model, output / f"{model.stem}.les.pt", overwrite=True)


def run(simulation: app.Simulation, steps: int) -> None:
    """Run, and print a line after each twentieth."""
    begin = time.perf_counter()
    freedom = 3 * simulation.topology.getNumAtoms() - 3  # the centre of mass does not move
    for part in range(1, 21):
        simulation.step(steps * part // 20 - simulation.currentStep)
        elapsed = time.perf_counter() - begin
        now = simulation.currentStep * PICOSECONDS_PER_STEP
        state = simulation.context.getState(energy=True)
        energy = state.getPotentialEnergy() / unit.kilojoule_per_mole
        temperature = 2 * state.getKineticEnergy() / freedom / unit.MOLAR_GAS_CONSTANT_R
        print(
            f"{5 * part:3d} %  {now:6.2f} ps  potential energy {energy:9.1f} kJ/mol  "
            f"{temperature / unit.kelvin:4.0f} K  {86.4 * now / elapsed:5.1f} ns/day  "
            f"{elapsed * (20 - part) / part:4.0f} s left",
            flush=True,
        )


def main() -> None:
    arguments = parse_arguments()
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    if not arguments.pdb.is_file():
        sys.exit(f"--pdb: {arguments.pdb} does not exist. Give a PDB file with all hydrogen atoms")
    artifact = find_artifact(arguments.model, output)
    pdb = app.PDBFile(str(arguments.pdb))
    if pdb.topology.getNumAtoms() < 50:
        torch.set_num_threads(1)  # threads would wait for each other longer than they work
    system = MLPotential("les", modelPath=artifact).createSystem(pdb.topology)
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 5 / unit.picosecond, PICOSECONDS_PER_STEP * unit.picosecond
    )
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(pdb.topology, system, integrator)
    simulation.context.setPositions(pdb.positions)
    print(f"Model {artifact.name}, {pdb.topology.getNumAtoms()} atoms. Minimising ...", flush=True)
    simulation.minimizeEnergy(maxIterations=200)
    state = simulation.context.getState(positions=True)
    with open(output / "minimised.pdb", "w") as file:
        app.PDBFile.writeFile(pdb.topology, state.getPositions(), file)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)
    table = app.StateDataReporter(
        str(output / "energies.csv"),
        RECORD,
        time=True,
        potentialEnergy=True,
        totalEnergy=True,
        temperature=True,
    )
    simulation.reporters += [table, app.XTCReporter(str(output / "trajectory.xtc"), RECORD)]
    run(simulation, arguments.steps)

    print(f"\nWrote to {output}: energies.csv, trajectory.xtc and its topology minimised.pdb.")
    model = artifact.name.removesuffix(".les.pt")
    print(draw_md(output, f"{arguments.pdb.stem} at 300 K, model {model}"))
    folder = os.path.relpath(Path(sys.executable).parent)
    print(NEXT.format(bin=f"{folder}/", here=HERE, artifact=os.path.relpath(artifact)))


if __name__ == "__main__":
    try:
        main()
    except LESError as error:
        sys.exit(f"error: {error}")
