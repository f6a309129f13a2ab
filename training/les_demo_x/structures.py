"""Structures and labels for the polarizable model: peptides, water and one ion, GFN2-xTB.

    python structures.py ../les_demo/data.npz data.npz

Adds to the data of the demonstration model what tells a polarizability: more capped amino acids
with a few waters and more water clusters, sampled in the same way, and an ammonium or formate ion
at 1.8 to 9 A from peptides and clusters. An ion beyond the cutoff of the network acts through the
latent charges and polarizabilities alone. (Sodium and chloride would take charge from molecules
far away, an error of the method for separated ions; structures with formate where that happens are
left out.) Labelled with GFN2-xTB through tblite (LGPL, used only here): energies and forces, no
dipole and no polarizability. ACE-THR-NME stays out, it is kept for the comparison.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from tblite.exceptions import TBLiteRuntimeError
from tblite.interface import Calculator

sys.path.insert(0, str(Path(__file__).parents[1] / "les_demo"))
import generate as demo  # the generator of the demonstration model

#: Capped amino acid -> numbers of waters around it.
SOLVATED = {"GLY": (3,), "SER": (3,), "ASN": (2,)}
WATER_CLUSTERS = (3, 5)
TEMPERATURES = (300.0, 450.0)
FRAMES = 40
#: Name -> charge, symbols, positions at the GFN2-xTB minimum [A].
IONS = {
    "ammonium": (
        1,
        Atoms(
            "NH4", 0.5944 * np.array([[0, 0, 0], [1, 1, 1], [-1, -1, 1], [1, -1, -1], [-1, 1, -1]])
        ),
    ),
    "formate": (
        -1,
        Atoms("CO2H", [[0, 0.046, 0], [1.122, 0.549, 0], [-1.122, 0.549, 0], [0, -1.144, 0]]),
    ),
}
#: Structures with each ion, before the filters.
WITH_ION = 1100
NEAREST = (1.8, 9.0)
#: Beyond this distance [A] an ion that has lost more than this charge [e] is an error of GFN2.
SEPARATED, TRANSFERRED = 3.5, 0.03
#: Never trained on.
KEPT_OUT = "ACE-THR-NME"


def demonstration(path: Path) -> list[tuple[str, Atoms]]:
    """The structures of the demonstration model, with the names of their groups."""
    data = dict(np.load(path))
    ends = np.cumsum(data["sizes"].astype(int))
    out = []
    for group, end, size in zip(data["group"], ends, data["sizes"].astype(int), strict=True):
        part = slice(end - size, end)
        r = data["positions"][part].astype(float)
        out.append((str(group), Atoms(data["numbers"][part].astype(int), r)))
    return [(group, atoms) for group, atoms in out if group != KEPT_OUT]


def sampled(generator: np.random.Generator) -> list[tuple[str, Atoms]]:
    """Peptides with waters, and water clusters."""
    jobs = [(f"ACE-{name}-NME + {n} waters", name, n) for name in SOLVATED for n in SOLVATED[name]]
    jobs += [(f"{n} waters", None, n) for n in WATER_CLUSTERS]
    out = []
    for seed, (group, name, count) in enumerate(jobs):
        for temperature in TEMPERATURES:
            solute = None if name is None else demo.capped(name)
            start = demo.with_waters(solute, count, generator)
            frames = demo.sample(start, temperature, FRAMES, 1000 + 10 * seed + int(temperature))
            out += [(group, atoms) for atoms in frames + demo.disturbed(frames, generator)]
        print(group, flush=True)
    return out


def with_ion(atoms: Atoms, ion: Atoms, generator: np.random.Generator) -> Atoms:
    """The ion, turned and rattled, in a random direction at a random distance; its atoms last."""
    turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    own = ion.positions @ turn + generator.normal(scale=0.02, size=ion.positions.shape)
    direction = generator.normal(size=3)
    direction /= np.linalg.norm(direction)
    wanted, along = generator.uniform(*NEAREST), 0.0
    while True:
        moved = own + atoms.positions.mean(0) + along * direction
        if nearest(atoms.positions, moved) >= wanted:
            return atoms + Atoms(ion.numbers, moved)
        along += 0.05


def nearest(r: np.ndarray, others: np.ndarray) -> float:
    return float(np.linalg.norm(r[:, None] - others, axis=2).min())


def label(atoms: Atoms, ion: str | None) -> tuple[float, np.ndarray] | None:
    """GFN2-xTB energy [eV] and forces [eV/A]; None for what is no part of the data."""
    charge, size = (IONS[ion][0], len(IONS[ion][1])) if ion else (0, 0)
    calculator = Calculator("GFN2-xTB", atoms.numbers, atoms.positions / units.Bohr, charge)
    calculator.set("verbosity", 0)
    try:
        result = calculator.singlepoint()
    except TBLiteRuntimeError:  # not converged
        return None
    forces = -np.asarray(result.get("gradient")) * units.Hartree / units.Bohr
    if np.abs(forces).max() > demo.LARGEST_FORCE:
        return None
    if ion and nearest(atoms.positions[:-size], atoms.positions[-size:]) > SEPARATED:
        kept = float(np.sum(result.get("charges")[-size:]))
        if abs(kept - charge) > TRANSFERRED:
            return None
    return float(result.get("energy")) * units.Hartree, forces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("demonstration", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    new = sampled(generator)
    pool = demonstration(arguments.demonstration) + new
    jobs: list[tuple[str, Atoms, str | None]] = [(group, atoms, None) for group, atoms in new]
    for ion, (_, shape) in IONS.items():
        for k in generator.choice(len(pool), WITH_ION, replace=False):
            group, atoms = pool[k]
            jobs.append((f"{group} + {ion}", with_ion(atoms, shape, generator), ion))
    rows = []
    for group, atoms, ion in jobs:
        labels = label(atoms, ion)
        if labels is not None:
            rows.append((group, atoms, *labels))
    demo.save(arguments.output, rows, generator)


if __name__ == "__main__":
    main()
