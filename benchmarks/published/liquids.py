"""Salts in water, and between solids."""

import numpy as np

from published.findings import Findings, Row
from published.models import Published, energy_and_forces

ELECTROLYTE = "electrolyte_rc4.5_mp1"
NAMES = {1: "H", 8: "O", 9: "F", 19: "K"}


def electrolyte(published: Published) -> Findings:
    calculator = published.calculator(ELECTROLYTE)
    charges: dict[int, list[float]] = {number: [] for number in NAMES}
    sign = calculator.artifact.metadata["charge_sign"]
    for reference in published.references(ELECTROLYTE).values():
        energy_and_forces(reference.atoms, calculator)
        for number in NAMES:
            found = sign * calculator.results["charges"][reference.atoms.numbers == number]
            charges[number] += found.tolist()
    rows = [
        Row(f"mean charge of {NAMES[number]}", "e", float(np.mean(charges[number])))
        for number in charges
    ]
    folder = published.data / "seed_figures" / "electrolyte"
    for text, file in (
        ("with LES", "r4.5-mp1-lc.dat"),
        ("short-range model", "r4.5-mp1-sr-lc.dat"),
    ):
        last = [float(value) for value in (folder / file).read_text().splitlines()[-1].split()]
        rows.append(Row(f"force RMSE, {text}", "eV/A", None, paper=last[4]))
    return Findings(rows)


def interface(published: Published) -> Findings:
    """LiCl and GaF3, out of the distribution of the training."""
    calculator = published.calculator("licl_gaf3_lr0")
    reference = published.references("licl_gaf3_lr0")["OOD-LR"]
    _, forces = energy_and_forces(reference.atoms, calculator)
    assert reference.published_forces is not None
    assert reference.dft_forces is not None
    short = published.structures("seed_figures/licl_gaf3/OOD-SR.xyz")[0]

    def error(found: np.ndarray, true: np.ndarray) -> float:
        return float(np.sqrt(np.mean((found - true) ** 2)))

    return Findings(
        [
            Row(
                "force RMSE, with LES",
                "eV/A",
                error(forces, reference.dft_forces),
                original=error(reference.forces, reference.dft_forces),
                paper=error(reference.published_forces, reference.dft_forces),
            ),
            Row(
                "force RMSE, short-range model",
                "eV/A",
                None,
                paper=error(short.arrays["F_CACE"], short.arrays["F_DFT"]),
            ),
            Row(
                "largest difference from the published forces",
                "eV/A",
                float(np.abs(forces - reference.published_forces).max()),
                original=float(np.abs(reference.forces - reference.published_forces).max()),
            ),
        ]
    )
