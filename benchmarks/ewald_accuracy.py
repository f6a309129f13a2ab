"""Errors of the mesh sum against the exact one, for every window order and mesh spacing.

    python benchmarks/ewald_accuracy.py

Prints the table from which `openmm_les.electrostatics.accuracy` takes its rule and writes
``benchmarks/results/ewald_accuracy.json``. The error is the RMS force error over the RMS force,
the worst of several systems, in float64 and in float32.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import torch
from environment import environment
from ewald_systems import System, kernel, random_ions, strained, water

from openmm_les.electrostatics import DirectEwald, MeshEwald, k_limits_for, mesh_size_for

ORDERS = (6, 7, 8, 9, 10)
SPACINGS = (0.25, 0.28, 0.30, 0.33, 0.34, 0.36, 0.39, 0.42)  # in units of dl
KERNELS = {"sigma 1 A, dl 2 A": (1.0, 2.0), "sigma 1 A, dl 1.5 A": (1.0, 1.5)}


def systems() -> dict[str, System]:
    """What the tolerance is promised for; small enough for the exact sum."""
    return {
        "water": water((7, 7, 7)),
        "strained triclinic water": strained(water((6, 6, 6), seed=1)),
        "random ions": random_ions(500, np.diag([19.0, 22.0, 17.0])),
        "needle": random_ions(86, np.diag([3.0, 3.0, 120.0]), seed=2),
        "long box": random_ions(500, np.diag([10.0, 10.0, 120.0]), seed=1),
        "net charge": random_ions(100, np.diag([14.0, 13.0, 15.0]), seed=3, net_charge=5.0),
        "tiny cell": random_ions(9, np.array([[4.1, 0, 0], [0.7, 3.9, 0], [0, -0.5, 4.4]]), seed=4),
        "tinier cell": random_ions(6, np.diag([2.5, 2.5, 2.5]), seed=5),
    }


def force_error(system: System, mesh: MeshEwald, exact: torch.Tensor) -> float:
    """RMS error over RMS force."""
    charges, positions, cell = system
    gradient = mesh(charges.to(mesh.dtype), positions, cell)[2].double()
    return float((gradient - exact).norm() / exact.norm())


def main() -> None:
    rows = []
    for label, (sigma, dl) in KERNELS.items():
        interaction = kernel(sigma, dl)
        exact = {
            name: DirectEwald(
                k_limits_for(system[2], interaction.k_max), interaction, dtype=torch.float64
            )(*system)[2]
            for name, system in systems().items()
        }
        print(f"\n{label}: worst RMS force error / RMS force, float64 (float32)")
        print("order  " + "  ".join(f"{f'h = {x} dl':>19}" for x in SPACINGS))
        table: dict[tuple[int, float], str] = {}
        for order, spacing in product(ORDERS, SPACINGS):
            errors: dict[str, dict[str, float]] = {}
            for name, system in systems().items():
                size = mesh_size_for(system[2], spacing * dl)
                errors[name] = {
                    str(dtype).removeprefix("torch."): force_error(
                        system,
                        MeshEwald(
                            size, interaction, order=order, spacing=spacing * dl, dtype=dtype
                        ),
                        exact[name],
                    )
                    for dtype in (torch.float64, torch.float32)
                }
            worst = max(e["float64"] for e in errors.values())
            single = max(e["float32"] for e in errors.values())
            rows.append(
                {"sigma": sigma, "dl": dl, "order": order, "spacing": spacing, "errors": errors}
            )
            table[order, spacing] = f"{worst:.1e} ({single:.1e})"
        for order in ORDERS:
            print(f"{order:>5}  " + "  ".join(f"{table[order, x]:>19}" for x in SPACINGS))
    out = Path(__file__).parent / "results" / "ewald_accuracy.json"
    out.write_text(
        json.dumps({"environment": environment(torch.get_num_threads()), "rows": rows}, indent=1)
        + "\n"
    )
    print(f"\nwrote {out}")


if __name__ == "__main__":
    main()
