"""The free energy of putting an LES model in the place of a force field, by MBAR.

    python 09_mm_to_mlmm_free_energy.py [--embedding mechanical] [--windows 9] [--steps 4000]

The energy is that of the force field at lambda = 0, that of ML/MM at 1, and linear in between.
Alanine dipeptide is taken from 0 to 1 in water and in vacuum. The free energy of either holds a
large constant, since a model and a force field count energies from zeros of their own; it cancels
in the difference of the two, by which the model changes the free energy of hydration.

Such corrections are added to free energies that were computed with the force field alone (binding,
hydration), which takes far fewer evaluations of the model than to compute all with it. What makes
them reliable is overlap: samples of each window must be likely in its neighbours too. The numbers
of a run of minutes are an illustration. The same command continues a calculation that was stopped.
"""

import argparse
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import yaml
from openmm import app, unit

from openmm_les import free_energy
from openmm_les.free_energy import report

HERE = Path(__file__).parent
FIELD = ["amber14-all.xml", "amber14/tip3p.xml"]


def write_structures(folder: Path, padding: float) -> None:
    """Alanine dipeptide in vacuum, and in a box of water."""
    shutil.copy(HERE / "alanine_dipeptide.pdb", folder / "vacuum.pdb")
    pdb = app.PDBFile(str(folder / "vacuum.pdb"))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(app.ForceField(*FIELD), padding=padding * unit.nanometer)
    with open(folder / "water.pdb", "w") as file:
        app.PDBFile.writeFile(modeller.topology, modeller.positions, file, keepIds=True)


def settings(arguments: argparse.Namespace) -> dict:
    """What `openmm-les free-energy run` reads from a YAML file."""
    base = {
        "model": arguments.model,
        "ml_region": ["resname ACE", "resname ALA", "resname NME"],
        "force_field": FIELD,
        "nonbonded_cutoff": min(0.9, 0.95 * arguments.padding),
        "embedding": arguments.embedding,
        "steps": arguments.steps,
        "equilibration_steps": max(1, arguments.steps // 5 // arguments.interval)
        * arguments.interval,
        "minimise_iterations": 100,
        "report_interval": arguments.interval,
    }
    legs = {leg: {"structure": f"{leg}.pdb"} for leg in ("water", "vacuum")}
    return {
        "base": base,
        "legs": list(legs),  # the result is the first minus the second
        "windows": arguments.windows,
        "seed": 1,
        "ligands": {"alanine": legs},
    }


if __name__ == "__main__":  # since Dask starts new processes
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="les-demo", help="name of a model, or a *.les.pt")
    parser.add_argument(
        "--embedding", choices=["mechanical", "electrostatic"], default="mechanical"
    )
    parser.add_argument("--padding", type=float, default=1.0, help="water around the peptide [nm]")
    parser.add_argument("--windows", type=int, default=9, help="values of lambda")
    parser.add_argument("--steps", type=int, default=4000, help="steps of each window")
    parser.add_argument("--interval", type=int, default=40, help="steps between samples")
    parser.add_argument(
        "--workers", type=int, help="windows at a time; default: one for each GPU, or core"
    )
    parser.add_argument("--output", type=Path, default=Path("example-output"))
    arguments = parser.parse_args()
    if not all(map(find_spec, ("distributed", "matplotlib", "pymbar"))):
        sys.exit("This needs Dask, pymbar and matplotlib: pip install 'openmm-les[examples]'")
    folder = arguments.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)

    # 1. The structures, and a file with the settings.
    if not (folder / "water.pdb").exists():
        write_structures(folder, arguments.padding)
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(settings(arguments), sort_keys=False))

    # 2. All windows, side by side: what `openmm-les free-energy run settings.yaml` does.
    found = free_energy.run(file, folder / "free-energy", workers=arguments.workers)
    print(found.windows.line())

    # 3. Free energies, and whether the windows overlap.
    print(report.text(found.results))
    (alanine,) = found.results
    for leg in alanine.legs:
        if leg.estimate is not None:
            print(f"{leg.name}: lambda, free energy by MBAR, error, BAR, integration [kJ/mol]")
            columns = (leg.estimate.values, leg.estimate.energies, leg.estimate.errors)
            others = (leg.estimate.by_bar, leg.estimate.by_integration)
            for value, *row in zip(*columns, *others, strict=True):
                print(f"{value:8.3f}" + "".join(f"{number:12.2f}" for number in row))
    print(
        "The model changes the free energy of hydration by "
        f"{alanine.correction:.2f} +- {alanine.error:.2f} kJ/mol."
    )
    print("\n".join(f"wrote {path}" for path in found.files))
