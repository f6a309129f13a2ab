"""A gas of charges +1 and -1: the model learns them from energies and forces alone."""

import numpy as np

from published.findings import Findings, Row
from published.models import Published, energy_and_forces

MODEL = "random_charge_rc4"
#: Atomic numbers that stand for the two charges.
CHARGES = {1: 1.0, 2: -1.0}


def random_charges(published: Published) -> Findings:
    calculator = published.calculator(MODEL)
    latent, true = [], []
    for reference in published.references(MODEL).values():
        energy_and_forces(reference.atoms, calculator)
        latent.append(calculator.results["charges"])
        true.append([CHARGES[number] for number in reference.atoms.numbers])
    charges, expected = np.concatenate(latent), np.concatenate(true)
    charges *= np.sign(charges @ expected)  # the energy does not depend on the sign
    errors = charges - expected
    paper = _last_row(published, "samestep-lc-4.dat")
    rows = [
        Row("MAE of the charges", "e", float(np.abs(errors).mean()), paper=paper[6]),
        Row("RMSE of the charges", "e", float(np.sqrt(np.mean(errors**2))), paper=paper[7]),
    ]
    rows += [
        Row(
            f"median of charges {sign:+.0f} e",
            "e",
            float(np.median(charges[expected == sign])),
            true=sign,
        )
        for sign in CHARGES.values()
    ]
    without = _last_row(published, "sr-lc-4.dat")
    rows += [
        Row("force RMSE, with LES", "eV/A", None, paper=paper[5]),
        Row("force RMSE, short-range model", "eV/A", None, paper=without[5]),
    ]
    return Findings(rows, {"charges": charges.tolist(), "true": expected.tolist()})


def _last_row(published: Published, file: str) -> list[float]:
    """Of a learning curve; the last has the most data."""
    path = published.data / "seed_figures" / "random_charges" / file
    return [float(value) for value in path.read_text().splitlines()[-1].split()]
