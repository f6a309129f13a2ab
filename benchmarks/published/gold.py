"""A gold dimer on MgO(001): which way it stands is decided by dopants far below the surface."""

from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.optimize import BFGS

from openmm_les.ase import LESCalculator
from published.findings import Findings, Row
from published.models import Published, energy_and_forces

GOLD = 79
#: Isolated atoms in the DFT energies [eV].
ATOMS = {
    8: -18599.43617104475,
    12: -8721.75974245582,
    13: -9877.676428588728,
    GOLD: -688.8680063349827,
}
#: E(wetting) - E(standing) in the paper, the dimer relaxed [meV]; its curves are of this model.
PAPER_MODEL = "au2_mgo_al"
PAPER = {"doped": -70.6, "undoped": 931.3}
SURFACE = 10.58354436  #: Height of the oxygen under the dimer [A]; the gold is below it
LOWER = 108  #: The atom of the dimer next to it
LARGEST_FORCE = 1e-3  #: Of a relaxed dimer [eV/A]
RELAXED = 20  #: The point of a published curve where nothing is lifted


def gold(published: Published, model: str) -> Findings:
    calculator = published.calculator(model)
    rows, curves = [], {}
    for slab in PAPER:
        wetting, standing = (_structure(published, f"{i}-{slab}") for i in (3, 1))
        relaxed = [_relaxed(atoms, calculator) for atoms in (wetting, standing)]
        true = 1e3 * (_label(wetting) - _label(standing))
        paper = PAPER[slab] if model == PAPER_MODEL else None
        rows += [
            Row(
                f"{slab}, structures of DFT", "meV", _step(wetting, standing, calculator), true=true
            ),
            Row(f"{slab}, relaxed", "meV", _step(*relaxed, calculator), paper=paper, true=true),
        ]
        distances = float(_distance(relaxed[1])), float(_distance(standing))
        if model != PAPER_MODEL:
            rows.append(Row(f"{slab}, standing: Au to O", "A", distances[0], true=distances[1]))
            continue
        curve = _compared(published, slab, relaxed[1], calculator)
        middle = curve["published"]["distance"][RELAXED]
        rows += [
            Row(f"{slab}, standing: Au to O", "A", distances[0], paper=middle, true=distances[1]),
            Row(f"{slab}: largest difference from the published curve", "meV", _largest(curve)),
        ]
        curves[slab] = curve
    return Findings(rows, curves)


def _step(wetting: Atoms, standing: Atoms, calculator: LESCalculator) -> float:
    """E(wetting) - E(standing) [meV]."""
    energies = [energy_and_forces(atoms, calculator)[0] for atoms in (wetting, standing)]
    return 1e3 * (energies[0] - energies[1])


def _largest(curve: dict[str, Any]) -> float:
    ours, theirs = np.array(curve["energy"]), np.array(curve["published"]["energy"])
    return 1e3 * float(np.abs(ours - theirs).max())


def _structure(published: Published, name: str) -> Atoms:
    return published.structures(f"seed_figures/au2_mgo/{name}.xyz")[0]


def _label(atoms: Atoms) -> float:
    """DFT energy without isolated atoms [eV]."""
    return float(atoms.calc.results["energy"] - sum(ATOMS[z] for z in atoms.numbers.tolist()))


def _distance(atoms: Atoms) -> float:
    return SURFACE - atoms.positions[LOWER, 2]


def _relaxed(atoms: Atoms, calculator: LESCalculator) -> Atoms:
    """With the atoms of the substrate where they are."""
    atoms = atoms.copy()
    atoms.set_constraint(FixAtoms(mask=atoms.numbers != GOLD))
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=LARGEST_FORCE, steps=500)
    return atoms


def _compared(
    published: Published, slab: str, relaxed: Atoms, calculator: LESCalculator
) -> dict[str, Any]:
    """Our energy [eV] where the published curve has its points [A], and that curve."""
    path = published.data / "seed_figures" / "au2_mgo" / f"energy-bondlength-{slab}.npz"
    with np.load(path) as file:
        curves = {name: file[name] for name in ("lr", "sr")}
    energies = []
    for distance in curves["lr"][:, 0]:
        lifted = relaxed.copy()
        lifted.positions[lifted.numbers == GOLD, 2] += _distance(relaxed) - distance
        energies.append(energy_and_forces(lifted, calculator)[0])
    return {
        "distance": curves["lr"][:, 0].tolist(),
        "energy": energies,
        "published": _points(curves["lr"]),
        "published_short_range": _points(curves["sr"]),
    }


def _points(curve: np.ndarray) -> dict[str, list[float]]:
    return {"distance": curve[:, 0].tolist(), "energy": curve[:, 1].tolist()}
