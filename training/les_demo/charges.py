"""Latent charges of a model beside those of its labels: Mulliken charges of GFN2-xTB.

    python charges.py --model les-demo

Evaluates the model on the tenth of ``data.npz`` that training never saw and GFN2-xTB through tblite
(LGPL, used only here) on the same structures: charges by element and by group, dipole moments, and
what the charges of a structure add up to. Writes ``learned-charges.json`` and
``learned-charges.png`` and prints Markdown tables.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_les import catalog
from openmm_les.analysis.plotting import Parity, draw_parity
from openmm_les.artifact import Artifact
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.files.writing import write_atomically
from openmm_les.units import BOHR_PER_ANGSTROM, DEBYE_PER_E_ANGSTROM

HERE = Path(__file__).parent
ELEMENTS = {1: "H", 6: "C", 7: "N", 8: "O"}


@dataclass(frozen=True)
class Structure:
    """A structure that is not periodic."""

    group: str
    numbers: np.ndarray  #: Shape (n,)
    positions: np.ndarray  #: Shape (n, 3) [A]


@dataclass(frozen=True)
class Charges:
    """What the model and GFN2-xTB say of a structure."""

    structure: Structure
    latent: np.ndarray  #: Charges of the model with their physical sign, shape (n,) [e]
    mulliken: np.ndarray  #: Shape (n,) [e]
    dipole: np.ndarray  #: Of GFN2-xTB, with the dipoles of its atoms, shape (3,) [e A]


def held_out(path: Path, number: int | None) -> list[Structure]:
    """The first tenth of the data, which is held out, or the first structures of it."""
    data = np.load(path)
    sizes = data["sizes"].astype(int)
    ends = np.cumsum(sizes)
    found = []
    for k in range(len(sizes) // 10)[:number]:
        part = slice(ends[k] - sizes[k], ends[k])
        positions = data["positions"][part].astype(float)
        found.append(Structure(_kind(str(data["group"][k])), data["numbers"][part], positions))
    return found


def _kind(group: str) -> str:
    """Groups of the data that this comparison takes together."""
    if group[0].isdigit():
        return "water clusters"
    if "water" in group:
        return "alanine dipeptide in water clusters"
    return "alanine dipeptide" if group == "ACE-ALA-NME" else "other capped amino acids"


def gfn2(structure: Structure) -> tuple[np.ndarray, np.ndarray]:
    """Mulliken charges [e] and the dipole moment [e A]."""
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", structure.numbers, structure.positions * BOHR_PER_ANGSTROM)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    return np.array(result.get("charges")), np.array(result.get("dipole")) / BOHR_PER_ANGSTROM


def latent_charges(artifact: Artifact, structures: list[Structure]) -> list[np.ndarray]:
    """Charges of the model with their physical sign, of each structure [e]."""
    sign = artifact.metadata["charge_sign"] or 1
    models: dict[tuple[int, ...], SystemModel] = {}
    found = []
    for structure in structures:
        numbers = tuple(structure.numbers.tolist())
        if numbers not in models:
            models[numbers] = SystemModel(artifact, numbers, periodic=False)
        found.append(sign * np.asarray(models[numbers].evaluate(structure.positions).charges))
    return found


def agreement(got: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Correlation, slope of the line through the origin, RMS difference."""
    got, expected = got.ravel(), expected.ravel()
    return {
        "correlation": float(np.corrcoef(got, expected)[0, 1]),
        "slope": float(got @ expected / (expected @ expected)),
        "rmse": float(np.sqrt(np.mean((got - expected) ** 2))),
    }


def joined(rows: list[Charges]) -> tuple[np.ndarray, ...]:
    """Latent charges, Mulliken charges, and atomic numbers of all atoms."""
    columns = zip(*((r.latent, r.mulliken, r.structure.numbers) for r in rows), strict=True)
    return tuple(np.concatenate(column) for column in columns)


def of_charges(rows: list[Charges], element: int | None = None) -> dict[str, float]:
    """Latent against Mulliken charges, of one element or of all."""
    latent, mulliken, numbers = joined(rows)
    chosen = numbers == element if element else numbers > 0
    means = {"mulliken": float(mulliken[chosen].mean()), "latent": float(latent[chosen].mean())}
    return {"atoms": int(chosen.sum())} | means | agreement(latent[chosen], mulliken[chosen])


def of_dipoles(rows: list[Charges]) -> dict[str, dict[str, float]]:
    """Dipole moments of charges against those of GFN2-xTB [D].

    Charges are shifted evenly so that they add up to 0: without that the moment of a structure
    would depend on the origin.
    """
    expected = np.array([row.dipole for row in rows]) * DEBYE_PER_E_ANGSTROM
    found = {}
    for name in ("latent", "mulliken"):
        charges = [getattr(row, name) for row in rows]
        moments = [
            (q - q.mean()) @ row.structure.positions for q, row in zip(charges, rows, strict=True)
        ]
        got = np.array(moments) * DEBYE_PER_E_ANGSTROM
        lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
        cosine = float(((got * expected).sum(axis=1) / lengths).mean())
        found[name] = agreement(got, expected) | {"mean_cosine": cosine}
    return found


def of_sums(rows: list[Charges]) -> dict[str, float]:
    """What the latent charges of a structure, which is neutral, add up to [e]."""
    sums = np.array([row.latent.sum() for row in rows])
    return {"mean": float(sums.mean()), "largest": float(np.abs(sums).max())}


def report(rows: list[Charges]) -> dict[str, dict]:
    """All statistics, by element and by group."""
    groups = {"all": rows}
    for name in sorted({row.structure.group for row in rows}):
        groups[name] = [row for row in rows if row.structure.group == name]
    return {
        "elements": {
            symbol: of_charges(rows, number)
            for number, symbol in ELEMENTS.items()
            if any(number in row.structure.numbers for row in rows)
        },
        "groups": {
            name: {
                "structures": len(chosen),
                "charges": of_charges(chosen),
                "dipoles": of_dipoles(chosen),
                "sums": of_sums(chosen),
            }
            for name, chosen in groups.items()
        },
    }


def tables(found: dict[str, dict]) -> str:
    """Markdown for docs/explanation/learned-charges.md."""
    lines = [
        "| element | atoms | mean, GFN2 [e] | mean, model [e] | correlation | slope | RMSE [e] |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["elements"].items():
        lines.append(
            f"| {name} | {row['atoms']} | {row['mulliken']:+.3f} | {row['latent']:+.3f} | "
            f"{row['correlation']:.3f} | {row['slope']:.2f} | {row['rmse']:.3f} |"
        )
    lines += [
        "",
        "| structures | | charges: correlation | slope | RMSE [e] | sum: mean [e] | largest [e] | "
        "dipole: slope | RMSE [D] | cosine |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["groups"].items():
        charges, dipoles, sums = row["charges"], row["dipoles"]["latent"], row["sums"]
        lines.append(
            f"| {name} | {row['structures']} | {charges['correlation']:.3f} | "
            f"{charges['slope']:.2f} | {charges['rmse']:.3f} | {sums['mean']:+.3f} | "
            f"{sums['largest']:.3f} | {dipoles['slope']:.2f} | {dipoles['rmse']:.2f} | "
            f"{dipoles['mean_cosine']:.3f} |"
        )
    own = found["groups"]["all"]["dipoles"]["mulliken"]
    lines.append(
        f"| all, Mulliken charges | {found['groups']['all']['structures']} | 1 | 1 | 0 | 0 | 0 | "
        f"{own['slope']:.2f} | {own['rmse']:.2f} | {own['mean_cosine']:.3f} |"
    )
    return "\n".join(lines)


def picture(rows: list[Charges], model: str) -> bytes:
    """A panel for each element, as PNG."""
    latent, mulliken, numbers = joined(rows)
    panels = [
        Parity(symbol, "e", mulliken[numbers == number], latent[numbers == number])
        for number, symbol in ELEMENTS.items()
        if number in numbers
    ]
    return draw_parity(panels, ".png", reference="Mulliken charge by GFN2-xTB", model=model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="les-demo", help="name of a model, or artifact")
    parser.add_argument("--data", type=Path, default=HERE / "data.npz")
    parser.add_argument("--docs", type=Path, default=HERE.parents[1] / "docs" / "explanation")
    parser.add_argument("--structures", type=int, help="only so many, for a quick look")
    arguments = parser.parse_args()
    structures = held_out(arguments.data, arguments.structures)
    latent = latent_charges(catalog.open_model(arguments.model), structures)
    rows = [Charges(s, q, *gfn2(s)) for s, q in zip(structures, latent, strict=True)]
    found = report(rows)
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(arguments.docs / "learned-charges.json", text.encode())
    name = f"latent charge of {Path(arguments.model).name}"
    write_atomically(arguments.docs / "learned-charges.png", picture(rows, name))
    print(tables(found))


if __name__ == "__main__":
    main()
