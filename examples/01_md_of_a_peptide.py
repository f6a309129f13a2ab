"""Molecular dynamics of alanine dipeptide in vacuum with a trained LES model.

    python 01_md_of_a_peptide.py [--model my.model] [--output demo-output]

Minimises, runs Langevin dynamics at 300 K and writes a trajectory and a table of energies. The
model is the demonstration model that comes with openmm-les, or any other: a checkpoint such as a
MACE-LES ``.model`` file, which is exported first, or an artifact ``.les.pt``.
"""

import argparse
import sys
from pathlib import Path

import openmm
from openmm import app, unit
from openmm_les_export import export
from openmmml import MLPotential

from openmm_les import catalog
from openmm_les.errors import LESError

HERE = Path(__file__).parent


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="checkpoint or artifact; default: les-demo")
    parser.add_argument("--pdb", type=Path, default=HERE / "alanine_dipeptide.pdb")
    parser.add_argument("--steps", type=int, default=4000, help="steps of 0.5 fs")
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


def main() -> None:
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    artifact = find_artifact(arguments.model, arguments.output)
    pdb = app.PDBFile(str(arguments.pdb))
    system = MLPotential("les", modelPath=artifact).createSystem(pdb.topology)
    integrator = openmm.LangevinMiddleIntegrator(
        300 * unit.kelvin, 1 / unit.picosecond, 0.5 * unit.femtosecond
    )
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(pdb.topology, system, integrator)
    simulation.context.setPositions(pdb.positions)
    print(f"Minimising {pdb.topology.getNumAtoms()} atoms ...")
    simulation.minimizeEnergy(maxIterations=200)
    simulation.context.setVelocitiesToTemperature(300 * unit.kelvin, 1)

    table, trajectory = arguments.output / "energies.csv", arguments.output / "trajectory.dcd"
    interval = max(1, arguments.steps // 20)
    columns = {"step": True, "potentialEnergy": True, "temperature": True, "speed": True}
    simulation.reporters += [
        app.DCDReporter(str(trajectory), interval),
        app.StateDataReporter(str(table), interval, totalEnergy=True, **columns),
        app.StateDataReporter(
            sys.stdout,
            interval,
            progress=True,
            remainingTime=True,
            totalSteps=arguments.steps,
            **columns,
        ),
    ]
    simulation.step(arguments.steps)
    print(f"Wrote {trajectory} and {table}.")
    print(f"Model: {artifact} (`openmm-les inspect {artifact}`). Next: your own --pdb or --model.")


if __name__ == "__main__":
    try:
        main()
    except LESError as error:
        sys.exit(f"error: {error}")
