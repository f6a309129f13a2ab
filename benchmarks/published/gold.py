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
#: E(wetting) - E(non-wetting) by the published models, relaxed [meV]: King et al. (2025).
PUBLISHED = {
    "au2_mgo_al": {"doped": -70.6, "undoped": 931.3},
    "au_mgo_al_leswrapper_nu2": {"doped": None, "undoped": None},
}
SURFACE = 10.58354436  #: Height of the oxygen under the dimer [A]; the gold is below it
LOWER = 108  #: The atom of the dimer next to it
LARGEST_FORCE = 1e-3  #: Of a relaxed dimer [eV/A]


def gold(published: Published, model: str) -> Findings:
    calculator = published.calculator(model)
    rows, curves = [], {}
    for slab in ("doped", "undoped"):
        wetting, standing = (_structure(published, f"{i}-{slab}") for i in (3, 1))
        true = 1e3 * (_label(wetting) - _label(standing))
        paper = PUBLISHED[model][slab]
        given = [energy_and_forces(atoms, calculator)[0] for atoms in (wetting, standing)]
        rows.append(_difference(f"{slab}, as optimised by DFT", given, None, true))
        relaxed = [_relaxed(atoms, calculator) for atoms in (wetting, standing)]
        energies = [energy_and_forces(atoms, calculator)[0] for atoms in relaxed]
        rows.append(_difference(f"{slab}, dimer relaxed", energies, paper, true))
        rows.append(
            Row(
                f"{slab}, distance of Au and O",
                "A",
                float(_distance(relaxed[1])),
                true=float(_distance(standing)),
            )
        )
        curves[slab] = _compared(published, slab, relaxed[1], calculator)
        rows.append(_deepest(slab, curves[slab], _label(standing)))
    return Findings(rows, curves)


def _difference(what: str, energies: list[float], paper: float | None, true: float) -> Row:
    ours = 1e3 * (energies[0] - energies[1])
    return Row(f"{what}: E(wetting) - E(standing)", "meV", ours, paper=paper, true=true)


def _deepest(slab: str, curve: dict[str, Any], true: float) -> Row:
    published = min(curve["published"]["energy"])
    return Row(
        f"{slab}, standing: energy of the minimum",
        "eV",
        min(curve["energy"]),
        paper=published,
        true=true,
    )


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
