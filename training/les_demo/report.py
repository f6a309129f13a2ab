"""Validation of the exported demonstration model: table and parity plot.

    python report.py ../../openmm_les/models/les-demo.les.pt ../../docs/reference

Evaluates the artifact, with the run-time package alone, on the tenth of the data that training
never saw; writes ``les-demo.png`` and ``les-demo-validation.json``, and prints a Markdown table.
Forces, energies and net charges; "all" is without the clusters of liquid water.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from openmm_les import artifact as artifacts
from openmm_les.analysis.plotting import Parity, draw_parity
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.files.writing import write_atomically

HERE = Path(__file__).parent


def evaluate(artifact: artifacts.Artifact, data: dict[str, np.ndarray]) -> list[dict]:
    """Errors of each held-out structure; the first tenth is held out."""
    sizes = data["sizes"].astype(int)
    ends = np.cumsum(sizes)
    models: dict[tuple[int, ...], SystemModel] = {}
    rows = []
    for k in range(len(sizes) // 10):
        part = slice(ends[k] - sizes[k], ends[k])
        numbers = tuple(data["numbers"][part].tolist())
        if numbers not in models:
            models[numbers] = SystemModel(artifact, numbers, periodic=False)
        model = models[numbers]
        got = model.evaluate(data["positions"][part].astype(float))
        rows.append(
            {
                "group": str(data["group"][k]),
                "energy": float(data["energy"][k]) - model.reference_energy,
                "model_energy": got.energy,
                "forces": data["forces"][part],
                "model_forces": got.forces,
                "net_charge": float(got.charges.sum()),
            }
        )
    return rows


def summary(rows: list[dict]) -> dict[str, float]:
    forces = np.concatenate([(row["model_forces"] - row["forces"]).ravel() for row in rows])
    energies = [(row["model_energy"] - row["energy"]) / len(row["forces"]) for row in rows]
    return {
        "structures": len(rows),
        "force_rmse_mev_per_a": 1e3 * float(np.sqrt(np.mean(forces**2))),
        "energy_rmse_mev_per_atom": 1e3 * float(np.sqrt(np.mean(np.square(energies)))),
        "largest_net_charge_e": max(abs(row["net_charge"]) for row in rows),
    }


def plot(rows: list[dict], path: Path) -> None:
    sizes = np.array([len(row["forces"]) for row in rows])
    energies = [
        1e3 * np.array([row[name] for row in rows]) / sizes for name in ("energy", "model_energy")
    ]
    forces = [
        np.concatenate([row[name].ravel() for row in rows]) for name in ("forces", "model_forces")
    ]
    panels = [Parity("energy", "meV/atom", *energies), Parity("force component", "eV/A", *forces)]
    picture = draw_parity(panels, path.suffix, reference="GFN2-xTB", model="les-demo")
    write_atomically(path, picture)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("docs", type=Path)
    arguments = parser.parse_args()
    artifact = artifacts.load(arguments.artifact)
    rows = evaluate(artifact, dict(np.load(HERE / "data.npz")))
    groups = sorted({row["group"] for row in rows})
    report = {"all": summary(rows)}
    report |= {name: summary([row for row in rows if row["group"] == name]) for name in groups}
    report["liquid water"] = summary(evaluate(artifact, dict(np.load(HERE / "liquid.npz"))))
    (arguments.docs / "les-demo-validation.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(rows, arguments.docs / "les-demo.png")
    print("| | structures | force RMSE [meV/A] | energy RMSE [meV/atom] | largest net charge [e] |")
    print("|---|---|---|---|---|")
    for name, entry in report.items():
        print(
            f"| {name} | {entry['structures']} | {entry['force_rmse_mev_per_a']:.1f} "
            f"| {entry['energy_rmse_mev_per_atom']:.2f} | {entry['largest_net_charge_e']:.3f} |"
        )


if __name__ == "__main__":
    main()
