"""Time per MD step on the CPU: openmm-les against openmm-ml's own MACE potential, same weights.

    python benchmarks/vs_openmmml.py [--threads 2] [--steps 20]

Prints a table and writes ``benchmarks/results/vs_openmmml.json``. The peer is
``MLPotential('mace')`` of the installed openmm-ml, with mace-torch's MACELES and a stand-in for the
missing `les` package (`peers`). Both run float32 velocity-Verlet steps of the Reference platform,
whose own cost is negligible; a step has one evaluation of energy and forces.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import openmm
import torch
from environment import environment
from openmm import Vec3, app, unit

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
CASES = {
    "water, 192 atoms, periodic": ("mace_les_water_r4.5_nl1_l0", "water_rpbe_d3_test.xyz"),
    "dipeptide, not periodic": ("mace_les_dipep_r4_l0", "spice_dipeptides_val.xyz"),
}


def topology_of(atoms: Any) -> app.Topology:
    """Topology without bonds: neither side needs them here."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for symbol in atoms.get_chemical_symbols():
        topology.addAtom(symbol, app.Element.getBySymbol(symbol), residue)
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors([Vec3(*v) for v in atoms.cell.array] * unit.angstrom)
    return topology


def time_steps(system: openmm.System, atoms: Any, steps: int) -> tuple[float, float, np.ndarray]:
    """Median time of a step [ms], and energy [kJ/mol] and forces [kJ/mol/nm] of the start."""
    integrator = openmm.VerletIntegrator(0.0002)
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, reference)
    context.setPositions(atoms.positions * 0.1)
    state = context.getState(energy=True, forces=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    forces = state.getForces(asNumpy=True)._value
    integrator.step(5)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        integrator.step(1)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times)), energy, np.asarray(forces)


def run_case(model: Path, atoms: Any, folder: Path, steps: int) -> dict[str, Any]:
    from openmm_les_export import export
    from openmmml import MLPotential
    from peers import mace_model

    artifact = export(model, folder / f"{model.stem}.les.pt")
    peer = folder / f"{model.stem}.peer.model"
    torch.save(mace_model(model), peer)
    topology = topology_of(atoms)
    ours = MLPotential("les", modelPath=artifact)
    theirs = MLPotential("mace", modelPath=str(peer))
    result: dict[str, Any] = {"atoms": len(atoms)}
    rows = {
        "openmm-ml": theirs.createSystem(
            topology, precision="single", returnEnergyType="energy", device="cpu"
        ),
        "openmm-les": ours.createSystem(
            topology, precision="single", returnEnergyType="energy", device="cpu"
        ),
    }
    outcome = {name: time_steps(system, atoms, steps) for name, system in rows.items()}
    for name, (milliseconds, energy, _) in outcome.items():
        result[name] = {"ms_per_step": milliseconds, "energy_kj_mol": energy}
    difference = np.abs(outcome["openmm-ml"][2] - outcome["openmm-les"][2]).max() / 964.85
    result["largest_force_difference_ev_per_a"] = float(difference)
    result["speed_up"] = outcome["openmm-ml"][0] / outcome["openmm-les"][0]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "vs_openmmml.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")

    report = {"environment": environment(arguments.threads), "cases": {}}
    print(f"{'':30s} {'openmm-ml':>12s} {'openmm-les':>12s} {'speed-up':>9s} {'max |dF|':>10s}")
    print(f"{'':30s} {'ms/step':>12s} {'ms/step':>12s} {'':>9s} {'eV/A':>10s}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, data) in CASES.items():
            atoms = ase.io.read(SHARED / "data" / data, index=0)
            path = SHARED / "models" / f"{model}.model"
            case = run_case(path, atoms, Path(folder), arguments.steps)
            report["cases"][name] = case
            print(
                f"{name:30s} {case['openmm-ml']['ms_per_step']:12.2f} "
                f"{case['openmm-les']['ms_per_step']:12.2f} {case['speed_up']:8.1f}x "
                f"{case['largest_force_difference_ev_per_a']:10.1e}"
            )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
