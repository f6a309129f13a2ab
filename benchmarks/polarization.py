"""What LES infers of polarization from energies and forces, beside GFN2-xTB.

    python benchmarks/polarization.py NAME=MODEL.les.pt [NAME=...] DATA.npz [DATA.npz ...]

MODEL is of training/les_demo_x, DATA is what it was trained on; structures that it never saw are
taken: the first tenth of each file, and ACE-THR-NME. GFN2-xTB by tblite gives what no training saw:

- the polarizability of structures without ions, by finite fields; the model's is the sum of those
  of atoms. GFN2-xTB has a minimal basis: it answers a field less than molecules do, and water not
  at all across its plane. (With ions, charge flows between the molecules in its fields.)
- its dipole moment; the model's is that of charges and induced dipoles;
- the dipole that molecules induce in one another: that of the structure less those of its parts,
  the ion or the waters taken away. The model's holds what its charges change and what they induce.

Prints tables, writes ``benchmarks/results/polarization.json`` and ``polarization.png``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.neighborlist import build_neighbor_list, get_connectivity_matrix, natural_cutoffs
from environment import environment
from scipy.sparse.csgraph import connected_components
from tblite import library
from tblite.interface import Calculator

from openmm_les import load_model
from openmm_les.artifact import Artifact
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.units import COULOMB_CONSTANT, DEBYE_PER_E_ANGSTROM

Array = np.ndarray
RESULTS = Path(__file__).parent / "results"
FIELD = 1e-3  # atomic units; the second order is exact to 1e-5
POLARIZABILITY = units.Bohr**3 / COULOMB_CONSTANT  # of 1 Bohr^3 [e A^2/V]
DEBYE = 1 / DEBYE_PER_E_ANGSTROM  # e A
KEPT_OUT = "ACE-THR-NME"
IONS = {"ammonium": 1, "formate": -1}
EACH = 8  # structures of each kind


# ---------------------------------------------------------------- structures
def held_out(paths: list[Path]) -> dict[str, list[Atoms]]:
    """By group, at most `EACH` of each."""
    groups: dict[str, list[Atoms]] = {}
    for path in paths:
        data = dict(np.load(path))
        ends = np.cumsum(data["sizes"].astype(int))
        for k, (group, end, size) in enumerate(
            zip(data["group"].tolist(), ends, data["sizes"].astype(int), strict=True)
        ):
            if k >= len(ends) // 10 and group != KEPT_OUT:
                continue
            part = slice(end - size, end)
            atoms = Atoms(data["numbers"][part].astype(int), data["positions"][part].astype(float))
            atoms.positions -= atoms.positions.mean(0)
            name = kind(group)
            if len(groups.setdefault(name, [])) < EACH:
                groups[name].append(atoms)
    return groups


def kind(group: str) -> str:
    """Ions by name, numbers of waters left out."""
    ion = next((name for name in IONS if name in group), None)
    body = group.split(" + ")[0] if "ACE" in group else "water clusters"
    if ion:
        return f"{'peptides' if 'ACE' in group else body} and {ion}"
    return f"{body} in water" if "ACE" in group and "waters" in group else body


def parts_of(atoms: Atoms) -> list[Array]:
    """Indices of the atoms of each molecule."""
    neighbors = build_neighbor_list(
        atoms, natural_cutoffs(atoms, mult=1.25), self_interaction=False
    )
    count, labels = connected_components(get_connectivity_matrix(neighbors.nl))
    return [np.flatnonzero(labels == k) for k in range(count)]


def charge_of(atoms: Atoms) -> int:
    """Of one molecule: those of the ions, by their formulas."""
    return {"H4N": 1, "CHO2": -1}.get(atoms.get_chemical_formula("hill"), 0)


# ---------------------------------------------------------------- GFN2-xTB
def dipole_by_xtb(atoms: Atoms, charge: int, field: Array | None = None) -> Array:
    """[e A]; the field in atomic units."""
    calculator = Calculator("GFN2-xTB", atoms.numbers, atoms.positions / units.Bohr, charge)
    calculator.set("verbosity", 0)
    calculator.set("accuracy", 0.01)
    if field is not None:
        calculator.add("electric-field", library.ffi.cast("double*", field.ctypes.data))
    return np.array(calculator.singlepoint().get("dipole")) * units.Bohr


def polarizability_by_xtb(atoms: Atoms, charge: int) -> Array:
    """Shape (3, 3) [e A^2/V]."""
    rows = []
    for axis in np.eye(3):
        change = dipole_by_xtb(atoms, charge, FIELD * axis)
        change -= dipole_by_xtb(atoms, charge, -FIELD * axis)
        rows.append(change / units.Bohr / (2 * FIELD) * POLARIZABILITY)
    return np.array(rows)


# ---------------------------------------------------------------- models
class Model:
    """Dipoles and polarizabilities of an artifact, for any molecules."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.models: dict[tuple[int, ...], SystemModel] = {}

    def __call__(self, atoms: Atoms) -> tuple[Array, Array, Array]:
        """Dipoles of charges and induced [e A], and the polarizability [e A^2/V]."""
        numbers = tuple(atoms.numbers.tolist())
        if numbers not in self.models:
            self.models[numbers] = SystemModel(
                self.artifact, numbers, periodic=False, precision="double"
            )
        moments = self.models[numbers].evaluate(atoms.positions).moments
        assert moments is not None
        assert moments.alpha is not None
        assert moments.induced_dipoles is not None
        sign = self.artifact.metadata["charge_sign"]
        permanent = sign * moments.charges @ atoms.positions
        total = moments.alpha.sum(0)
        tensor = total if moments.alpha.ndim == 3 else total * np.eye(3)
        return permanent, sign * moments.induced_dipoles.sum(0), tensor


# ---------------------------------------------------------------- comparison
def compare(got: Array, expected: Array) -> dict[str, float]:
    """RMS difference, slope of a line through the origin, correlation, RMS of what is expected."""
    got, expected = np.ravel(got), np.ravel(expected)
    return {
        "rmse": float(np.sqrt(((got - expected) ** 2).mean())),
        "slope": float(got @ expected / (expected @ expected)),
        "correlation": float(np.corrcoef(got, expected)[0, 1]) if len(got) > 1 else 1.0,
        "rms": float(np.sqrt((expected**2).mean())),
    }


def measured(atoms: Atoms, models: dict[str, Model]) -> dict[str, dict[str, Array]]:
    """Of one structure: dipole and mutually induced dipole [D], polarizability [A^3]."""
    parts = [atoms[indices] for indices in parts_of(atoms)]
    charges = [charge_of(part) for part in parts]
    found: dict[str, dict[str, Array]] = {}
    cubic = 1 / POLARIZABILITY * units.Bohr**3
    whole = dipole_by_xtb(atoms, sum(charges))
    mutual = whole - sum(
        dipole_by_xtb(part, charge) for part, charge in zip(parts, charges, strict=True)
    )
    found["GFN2-xTB"] = {"dipole": whole / DEBYE, "mutual": mutual / DEBYE}
    if not any(charges):
        found["GFN2-xTB"]["polarizability"] = polarizability_by_xtb(atoms, 0) * cubic
    for name, model in models.items():
        permanent, induced, tensor = model(atoms)
        alone = [model(part) for part in parts]
        found[name] = {
            "polarizability": tensor * cubic,
            "dipole": (permanent + induced) / DEBYE,
            "permanent": permanent / DEBYE,
            "mutual": (permanent + induced - sum(p + i for p, i, _ in alone)) / DEBYE,
            "mutual_induced": (induced - sum(i for _, i, _ in alone)) / DEBYE,
        }
    return found


def table_of(rows: list[dict[str, dict[str, Array]]], name: str) -> dict[str, Any]:
    """One model against GFN2-xTB for one kind of structures."""

    def both(what: str, expected: str) -> tuple[Array, Array]:
        """Of the structures of which GFN2-xTB's is known and not zero."""
        pairs = [
            (row[name][what], row["GFN2-xTB"][expected])
            for row in rows
            if np.abs(row["GFN2-xTB"].get(expected, 0.0)).max() > 1e-6
        ]
        got, known = zip(*pairs, strict=True) if pairs else ((), ())
        return np.array(got), np.array(known)

    table: dict[str, Any] = {"structures": len(rows)}
    tensors = both("polarizability", "polarizability")
    if len(tensors[0]):
        means = [np.trace(t, axis1=1, axis2=2) / 3 for t in tensors]
        table["polarizability"] = compare(*means) | {
            "mean": float(means[0].mean()),
            "mean_by_xtb": float(means[1].mean()),
        }
        rest = [t - np.eye(3) * m[:, None, None] for t, m in zip(tensors, means, strict=True)]
        table["anisotropic_rms"] = {
            "model": float(np.sqrt((rest[0] ** 2).mean())),
            "xtb": float(np.sqrt((rest[1] ** 2).mean())),
        }
    for what, expected in (
        ("dipole", "dipole"),
        ("permanent", "dipole"),
        ("mutual", "mutual"),
        ("mutual_induced", "mutual"),
    ):
        pair = both(what, expected)
        if len(pair[0]):
            table[what] = compare(*pair)
    return table


def draw(rows: dict[str, list[dict[str, dict[str, Array]]]], name: str, path: Path) -> None:
    """Model against GFN2-xTB: components of polarizabilities, dipoles, mutually induced dipoles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "polarizability": "polarizability [A$^3$]",
        "dipole": "dipole [D]",
        "mutual": "dipole induced by one another [D]",
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.4), constrained_layout=True)
    for axis, (what, label) in zip(axes, panels.items(), strict=True):
        for number, (group, found) in enumerate(rows.items()):
            known = [row for row in found if what in row["GFN2-xTB"]]
            x = np.array([row["GFN2-xTB"][what] for row in known]).ravel()
            y = np.array([row[name][what] for row in known]).ravel()
            if len(x) and np.abs(x).max() > 1e-6:
                axis.plot(x, y, ".", markersize=4, color=f"C{number % 10}", label=group)
        low, high = axis.get_xlim()
        axis.plot([low, high], [low, high], color="black", linewidth=0.7)
        axis.set(xlabel=f"GFN2-xTB, {label}", ylabel=f"{name}, components")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("arguments", nargs="+", help="NAME=MODEL.les.pt and DATA.npz")
    given = parser.parse_args().arguments
    torch.set_num_threads(1)
    named = dict(argument.split("=", 1) for argument in given if "=" in argument)
    models = {name: Model(load_model(path)) for name, path in named.items()}
    groups = held_out([Path(argument) for argument in given if "=" not in argument])
    rows = {
        group: [measured(atoms, models) for atoms in members] for group, members in groups.items()
    }
    everything = [row for found in rows.values() for row in found]
    results = {
        name: {
            group: table_of(members, name) for group, members in {"all": everything, **rows}.items()
        }
        for name in models
    }
    for name, tables in results.items():
        print(f"\n{name} against GFN2-xTB: slope and correlation; mean polarizabilities [A^3]")
        for group, table in tables.items():
            text = f"{group:>28}"
            for what in ("polarizability", "dipole", "permanent", "mutual", "mutual_induced"):
                if what in table:
                    pair = table[what]
                    text += f" | {what} {pair['slope']:5.2f} {pair['correlation']:5.2f}"
                    if "mean" in pair:
                        text += f" ({pair['mean']:.2f}, {pair['mean_by_xtb']:.2f})"
            print(text)
    draw(rows, next(iter(models)), RESULTS / "polarization.png")
    report = {"environment": environment(1), "models": results}
    (RESULTS / "polarization.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
