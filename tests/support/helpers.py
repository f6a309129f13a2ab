"""Structures for the tests, and published models, where the checkout has them beside it."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from openmm import Vec3, app, unit
from support import checkpoints
from support.structures import PEPTIDE

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
MODELS = SHARED / "models"
DATA = SHARED / "data"
WATER = Path(__file__).with_name("water.xyz")

WATER_MODEL = "mace_les_water_r4.5_nl1_l0"
DIPEPTIDE_MODEL = "mace_les_dipep_r4_l0"
L2_MODEL = "mace_les_newformat_random_L2"
MACE_MODELS = [WATER_MODEL, DIPEPTIDE_MODEL, L2_MODEL]
CACE_WATER_MODEL = "cace_les_water_r4.5_nl1_nu2"
CACE_DIPEPTIDE_MODEL = "cace_les_dipep_r4_nl2_nu2"
CACE_MODELS = [CACE_WATER_MODEL, CACE_DIPEPTIDE_MODEL]
NEQUIP_WATER_MODEL = "nequip_les_newformat_tiny"
NEQUIP_DIPEPTIDE_MODEL = "nequip_les_dipep_r4_nl3_l1"
ALLEGRO_MODEL = "allegro_les_newformat_tiny"
NEQUIP_MODELS = [NEQUIP_WATER_MODEL, NEQUIP_DIPEPTIDE_MODEL, ALLEGRO_MODEL]
CHGNET_MODEL = "chgnet_les_random"
#: What their files do not hold: the les package of the training.
LES_CHOICES = {
    NEQUIP_WATER_MODEL: {"norm_factor": 90.4756, "self_interaction": "removed"},
    ALLEGRO_MODEL: {"norm_factor": 90.4756, "self_interaction": "removed"},
    NEQUIP_DIPEPTIDE_MODEL: {"norm_factor": 90.0474, "self_interaction": "removed"},
    CHGNET_MODEL: {"self_interaction": "removed"},
}


def shared_file(path: Path) -> Path:
    """A file that developers and CI have; skips in a user's clone, which has none."""
    if not path.exists():
        pytest.skip(f"{path.name} is not distributed with the code (licence)")
    return path


def model_file(name: str) -> Path:
    """The file or directory of a published model, whatever its suffix."""
    return shared_file(checkpoints.stored(MODELS, name) or MODELS / name)


def atomic_energies(name: str) -> dict[int, float] | None:
    """Isolated-atom energies [eV] of a model whose file holds none; they stand in its reference."""
    if name not in CACE_MODELS:
        return None
    with np.load(shared_file(MODELS / f"{name}.npz")) as data:
        numbers, energies = data["atomic_energies_Z"], data["atomic_energies_E"]
        return dict(zip(numbers.tolist(), energies.tolist(), strict=True))


def export_options(name: str) -> dict[str, object]:
    """What an export of a model needs beside its file."""
    return {"atomic_energies": atomic_energies(name), **LES_CHOICES.get(name, {})}


def water_frame(i: int) -> Atoms:
    """Configuration `i` of 4: 27 waters in a periodic box, from dynamics by the bundled model."""
    atoms = ase.io.read(WATER, index=i)
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def dipeptide(i: int) -> Atoms:
    """Conformation `i` of alanine dipeptide, not periodic."""
    peptide = ase.io.read(PEPTIDE)
    peptide.rattle(0.03, seed=i)
    return Atoms(peptide.numbers, peptide.positions)


def references(model: str) -> list[dict[str, np.ndarray]]:
    """What the original code says of a model: one dictionary of arrays for each structure."""
    folder = checkpoints.FOLDER if model in checkpoints.SYNTHETIC else MODELS
    with np.load(shared_file(folder / f"{model}.npz")) as data:
        arrays = dict(data)
    out = []
    for i, name in enumerate(arrays["names"]):
        prefix = f"{i}/"
        entry = {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}
        out.append({"name": str(name), **entry})
    return out


def atoms_of(reference: dict[str, np.ndarray]) -> Atoms:
    """The structure of a reference."""
    return Atoms(
        reference["numbers"],
        reference["positions"],
        cell=reference["cell"] if reference["pbc"].any() else None,
        pbc=bool(reference["pbc"].any()),
    )


def topology_from_atoms(atoms: Atoms) -> app.Topology:
    """OpenMM topology with bonds by distance, one residue for each bonded group."""
    bonded = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.25))
    group = np.arange(len(atoms))
    for i, j in zip(*bonded, strict=True):
        group[group == group[j]] = group[i]
    topology = app.Topology()
    chain = topology.addChain()
    handles = []
    for i, symbol in enumerate(atoms.get_chemical_symbols()):
        if i == 0 or group[i] != group[i - 1]:  # the atoms of an OpenMM residue are contiguous
            residue = topology.addResidue("MOL", chain)
        handles.append(topology.addAtom(f"{symbol}{i}", app.Element.getBySymbol(symbol), residue))
    for i, j in zip(*bonded, strict=True):
        if i < j:
            topology.addBond(handles[i], handles[j])
    if atoms.pbc.all():
        topology.setPeriodicBoxVectors([Vec3(*v) for v in atoms.cell.array] * unit.angstrom)
    return topology
