"""Two molecules, one or both of them charged, pulled apart beyond the cutoff."""

import numpy as np
from ase import Atoms

from openmm_les.ase import LESCalculator
from published.findings import Findings, Row
from published.models import Published, energy_and_forces

#: Model and number of the pair in the file names, by kind of pair.
PAIRS = {"charged-charged": ("charged_dimer_q1", 0), "charged-polar": ("lode_CP_q4_w0.2", 4)}
POINTS = 40  #: Of a curve


def dimers(published: Published, kind: str) -> Findings:
    model, number = PAIRS[kind]
    calculator = published.calculator(model)
    rows: list[Row] = []
    curves = {}
    for part, text in (("train", "as far as in training"), ("test", "farther")):
        structures = published.structures(f"seed_figures/lode/{part}-id{number}.xyz")
        labels = np.array([atoms.info["inter_energy"] for atoms in structures])
        curve = _energies(structures, calculator)
        errors = 1e3 * (np.array(curve["energy"]) - labels)
        rows.append(Row(f"energy RMSE, {text}", "meV", float(np.sqrt(np.mean(errors**2)))))
        curves[part] = curve | {"label": labels.tolist()}
    references = published.references(model)
    farthest = references["test0_L30_on_kc"]
    at = curves["test"]
    rows.append(
        Row(
            f"energy at {at['distance'][0]:.1f} A",
            "eV",
            at["energy"][0],
            original=farthest.energy,
            true=at["label"][0],
        )
    )
    curves["line"] = _energies(_pulled_apart(published, number), calculator)
    return Findings(rows, curves)


def _pulled_apart(published: Published, number: int) -> list[Atoms]:
    """Structures from the nearest to the farthest."""
    nearest = published.structures(f"seed_figures/lode/train-id{number}.xyz")[0]
    farthest = published.structures(f"seed_figures/lode/test-id{number}.xyz")[-1]
    second = slice(int(nearest.info["indexB"]), None)
    shift = farthest.positions[second] - nearest.positions[second]
    structures = []
    for part in np.linspace(0.0, 1.0, POINTS):
        atoms = nearest.copy()
        atoms.positions[second] += part * shift
        ends = nearest.info["distance"], farthest.info["distance"]
        atoms.info["distance"] = ends[0] + part * (ends[1] - ends[0])
        structures.append(atoms)
    return structures


def _energies(structures: list[Atoms], calculator: LESCalculator) -> dict[str, list[float]]:
    """Energy and its part without the latent charges [eV] over the distance [A]."""
    curve: dict[str, list[float]] = {"distance": [], "energy": [], "short_range": []}
    for atoms in structures:
        energy, _ = energy_and_forces(atoms, calculator)
        curve["distance"].append(float(atoms.info["distance"]))
        curve["energy"].append(energy)
        curve["short_range"].append(energy - calculator.results["les_energy"])
    return curve
