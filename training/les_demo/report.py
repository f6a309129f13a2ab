"""Validation of the exported demonstration model: table and parity plot.

    python report.py data.npz ../../openmm_les/models/les-demo.les.pt ../../docs

Evaluates the artifact, with the run-time package alone, on the tenth of the data that training
never saw; writes ``les-demo.png`` and ``les-demo-validation.json``, and prints a Markdown table.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from openmm_les import artifact as artifacts
from openmm_les.system_model import SystemModel


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
    }


def plot(rows: list[dict], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4))
    sizes = np.array([len(row["forces"]) for row in rows])
    energy = np.array([row["energy"] for row in rows]) / sizes
    predicted = np.array([row["model_energy"] for row in rows]) / sizes
    forces = np.concatenate([row["forces"].ravel() for row in rows])
    model_forces = np.concatenate([row["model_forces"].ravel() for row in rows])
    for axis, x, y, unit in (
        (left, 1e3 * energy, 1e3 * predicted, "energy [meV/atom]"),
        (right, forces, model_forces, "force component [eV/A]"),
    ):
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        axis.plot([low, high], [low, high], color="0.7", linewidth=1)
        axis.plot(x, y, ".", markersize=2)
        axis.set_xlabel(f"GFN2-xTB {unit}")
        axis.set_ylabel(f"les-demo {unit}")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("docs", type=Path)
    arguments = parser.parse_args()
    rows = evaluate(artifacts.load(arguments.artifact), dict(np.load(arguments.data)))
    groups = sorted({row["group"] for row in rows})
    report = {"all": summary(rows)}
    report |= {name: summary([row for row in rows if row["group"] == name]) for name in groups}
    (arguments.docs / "les-demo-validation.json").write_text(json.dumps(report, indent=1) + "\n")
    plot(rows, arguments.docs / "les-demo.png")
    print("| | structures | force RMSE [meV/A] | energy RMSE [meV/atom] |\n|---|---|---|---|")
    for name, entry in report.items():
        print(
            f"| {name} | {entry['structures']} | {entry['force_rmse_mev_per_a']:.1f} "
            f"| {entry['energy_rmse_mev_per_atom']:.2f} |"
        )


if __name__ == "__main__":
    main()
