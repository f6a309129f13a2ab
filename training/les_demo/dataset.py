"""Structures to train on, and batches of them in the form that mace-torch takes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import covalent_radii
from matscipy.neighbours import neighbour_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ELEMENTS = [1, 6, 7, 8]
#: Range of the networks [A].
CUTOFF = 4.5
#: Groups of the structures of ``liquid.py`` and of ``distorted.py``.
LIQUID, DISTORTED = "liquid water", "distorted"
#: Atomic numbers of molecules that are not neutral, with their charges [e].
IONS = {(1, 1, 1, 1, 7): 1.0, (1, 6, 8, 8): -1.0}
#: Charge that a bond gives the first of two elements at first; that of C=O [e].
BONDS = {(1, 8): 0.33, (1, 7): 0.3, (1, 6): 0.08, (6, 7): 0.15, (6, 8): 0.2}
CARBONYL = 0.5


def total_charges(numbers: np.ndarray, molecules: np.ndarray) -> np.ndarray:
    """Charge of each molecule, 0 unless it is one of `IONS` [e]."""
    formulas = [tuple(sorted(numbers[molecules == k])) for k in range(molecules.max() + 1)]
    return np.array([IONS.get(formula, 0.0) for formula in formulas], dtype=np.float32)


def initial_charges(
    numbers: np.ndarray, molecules: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Charges to start from: what bonds move from one atom to the other, and charges of ions [e].

    Energies are even in the charges: from zero on, there is no way that leads further down.
    """
    charges = total_charges(numbers, molecules)[molecules] / np.bincount(molecules)[molecules]
    coordination = np.bincount(i, minlength=len(numbers))
    for a, b in zip(i, j, strict=True):
        double = {numbers[a], numbers[b]} == {6, 8} and 1 in (coordination[a], coordination[b])
        for positive, negative, sign in ((a, b, 1.0), (b, a, -1.0)):
            pair = (int(numbers[positive]), int(numbers[negative]))
            charges[a] += sign * (CARBONYL if double and pair == (6, 8) else BONDS.get(pair, 0.0))
    return charges.astype(np.float32)


def opposite_edges(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Index of the edge that goes back, for each."""
    found = np.empty_like(i)
    found[np.lexsort((j, i))] = np.lexsort((i, j))
    return found


def row_of(
    group: str, numbers: np.ndarray, positions: np.ndarray, forces: np.ndarray, energy: float
) -> dict[str, Any]:
    """One structure with its neighbours and molecules."""
    r = positions.astype(np.float64)
    i, j, d = neighbour_list(
        "ijd",
        positions=r - r.min(0) + CUTOFF,
        cell=np.diag(np.ptp(r, axis=0) + 2 * CUTOFF + 1),
        pbc=[False] * 3,
        cutoff=CUTOFF,
    )
    bonded = d < 1.25 * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    graph = coo_array((np.ones(bonded.sum()), (i[bonded], j[bonded])), shape=(len(r), len(r)))
    molecules = connected_components(graph, directed=False)[1]
    if group == DISTORTED:  # which bonds are left does not matter there
        molecules = np.zeros_like(molecules)
    return {
        "group": group,
        "species": torch.tensor([ELEMENTS.index(z) for z in numbers]),
        "positions": torch.tensor(r, dtype=torch.float32),
        "edges": torch.tensor(np.stack([j, i]).astype(np.int64)),
        "opposite": torch.tensor(opposite_edges(i, j)),
        "molecules": torch.tensor(molecules).long(),
        "charges": torch.tensor(total_charges(numbers, molecules)),
        "initial_charges": torch.tensor(initial_charges(numbers, molecules, i[bonded], j[bonded])),
        "held": torch.full((len(r),), float(group != DISTORTED)),  # which has other bonds
        "energy": float(energy),
        "forces": torch.tensor(forces),
    }


def load(path: Path) -> list[dict[str, Any]]:
    """Structures of a file that `generate.save` wrote."""
    data = dict(np.load(path))  # each access to the file itself would decompress it again
    sizes = data["sizes"].astype(int)
    rows = []
    for k, end in enumerate(np.cumsum(sizes)):
        part = slice(end - sizes[k], end)
        of_atoms = (data[name][part] for name in ("numbers", "positions", "forces"))
        rows.append(row_of(str(data["group"][k]), *of_atoms, data["energy"][k]))
    return rows


def without(held_out: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Structures with ions, but those put beside molecules that are held out, or held out there."""
    places = {tuple(row["positions"][0].tolist()) for row in held_out}
    rows = rows[len(rows) // 10 :]
    return [row for row in rows if tuple(row["positions"][0].tolist()) not in places]


def atom_energies(path: Path) -> np.ndarray:
    """Energies of the isolated atoms, for each of the elements [eV]."""
    data = np.load(path)
    known = dict(zip(data["elements"].tolist(), data["atom_energy"].tolist(), strict=True))
    return np.array([known[z] for z in ELEMENTS])


def reference_energies(rows: list[dict[str, Any]]) -> np.ndarray:
    """One energy for each element, by least squares over the compositions [eV]."""
    counts = np.array([np.bincount(row["species"], minlength=len(ELEMENTS)) for row in rows])
    energies = np.array([row["energy"] for row in rows])
    return np.asarray(np.linalg.lstsq(counts.astype(float), energies, rcond=None)[0])


def collate(rows: list[dict[str, Any]], references: np.ndarray) -> dict[str, torch.Tensor]:
    """A batch in the form that mace-torch takes, molecules numbered through; energies without the
    references.
    """
    sizes = torch.tensor([len(row["species"]) for row in rows])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    species = torch.cat([row["species"] for row in rows])
    own = [row["energy"] - references[row["species"].numpy()].sum() for row in rows]
    numbers = torch.tensor([0] + [row["edges"].shape[1] for row in rows])
    first_edges = numbers.cumsum(0)[:-1]
    first, molecules = 0, []
    for row in rows:
        molecules.append(row["molecules"] + first)
        first += int(row["molecules"].max()) + 1
    return {
        "positions": torch.cat([row["positions"] for row in rows]),
        "node_attrs": torch.nn.functional.one_hot(species, len(ELEMENTS)).float(),
        "edge_index": torch.cat([row["edges"] + ptr[k] for k, row in enumerate(rows)], 1),
        "opposite": torch.cat(
            [row["opposite"] + n for row, n in zip(rows, first_edges, strict=True)]
        ),
        "shifts": torch.zeros(int(sum(numbers)), 3),
        "unit_shifts": torch.zeros(int(sum(numbers)), 3),
        "cell": torch.zeros(3 * len(rows), 3),
        "pbc": torch.zeros(len(rows), 3, dtype=torch.bool),
        "batch": torch.repeat_interleave(torch.arange(len(rows)), sizes),
        "ptr": ptr,
        "head": torch.zeros(len(rows), dtype=torch.int64),
        "energy": torch.tensor(own, dtype=torch.float32),
        "forces": torch.cat([row["forces"] for row in rows]),
        "sizes": sizes.float(),
        "molecules": torch.cat(molecules),
        "charges_of_molecules": torch.cat([row["charges"] for row in rows]),
        "charges_of_batch": torch.stack([row["charges"].sum() for row in rows]),
        "initial_charges": torch.cat([row["initial_charges"] for row in rows]),
        "held": torch.cat([row["held"] for row in rows]),
    }


def batches(
    rows: list[dict[str, Any]], size: int, generator: np.random.Generator
) -> list[list[dict[str, Any]]]:
    """All structures in random order; a batch has fewer of the liquid, which are large."""
    found = []
    for is_liquid, number in ((False, size), (True, max(1, size // 3))):
        own = [row for row in rows if (row["group"] == LIQUID) == is_liquid]
        own = [own[i] for i in generator.permutation(len(own))]
        found += [own[start : start + number] for start in range(0, len(own), number)]
    return [found[i] for i in generator.permutation(len(found))]
