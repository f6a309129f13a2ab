"""Small clusters to which an atom is added far away."""

import numpy as np

from published.findings import Findings, Row
from published.models import Published, energy_and_forces

#: Model, structure whose last atom is taken away, and the atom that is watched.
ADDED = {
    "NaCl cluster": ("nacl_cluster", "na9cl8_open", "Na"),
    "carbon chain": ("carbon_chain", "c10h3_open", "H"),
}


def clusters(published: Published, system: str) -> Findings:
    """What the farthest atom feels when the last one is added."""
    model, structure, symbol = ADDED[system]
    calculator = published.calculator(model)
    whole = published.references(model)[structure].atoms
    farthest = int(np.argmax(whole.get_distances(-1, range(len(whole) - 1))))
    forces, charges = [], []
    for atoms in (whole, whole[:-1]):
        _, force = energy_and_forces(atoms, calculator)
        forces.append(force[farthest])
        charges.append(calculator.results["charges"][: len(whole) - 1])
    change = np.abs(charges[0] - charges[1])
    away = f"{symbol} {whole.get_distance(-1, farthest):.1f} A away"
    return Findings(
        [
            Row(
                f"change of the force by an {away}",
                "meV/A",
                1e3 * float(np.linalg.norm(forces[0] - forces[1])),
            ),
            Row(f"change of the charge by an {away}", "e", float(change[farthest])),
            Row("largest change of a charge", "e", float(change.max())),
        ]
    )
