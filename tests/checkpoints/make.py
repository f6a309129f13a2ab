"""Writes the checkpoints of this folder, random weights of every family, and reference values.

    python tests/checkpoints/make.py mace mace_old mace_moments chgnet  # beside mace-torch
    python tests/checkpoints/make.py cace cace_sum cace_combined
    python tests/checkpoints/make.py nequip allegro nequip_moments allegro_moments  # beside nequip
    python tests/checkpoints/make.py NAME    # the values of any other, whose file is here already

Short-range energies and charges are those of the frameworks' own networks, or for CACE and CHGNet
of a second evaluation of their equations; the sum over charges is `oracles.ewald`. Nothing here
is computed by the code that the tests compare with these values.
"""

from __future__ import annotations

import dataclasses
import lzma
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import ase.io
import numpy as np
import torch
from ase import Atoms
from openmm_les_export import read_model
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import reference_model
from oracles import (
    cace_models,
    chgnet_models,
    ewald,
    mace_models,
    mace_moments,
    multipoles,
    nequip_models,
)
from support.checkpoints import FOLDER, checkpoint, export_options
from support.reproduction import MOMENTS as MOMENT_NAMES
from support.structures import PEPTIDE, waters

TYPES = ["H", "C", "N", "O"]
ELEMENTS = [1, 6, 7, 8]
ENERGIES = {"H": -13.1, "C": -1029.2, "N": -1485.3, "O": -2042.7}
OF_TYPES = {
    "type_names": TYPES,
    "per_type_energy_scales": dict.fromkeys(TYPES, 0.5),
    "per_type_energy_shifts": ENERGIES,
}
MACE_OPTIONS = {
    "interaction_cls_first": "RealAgnosticDensityInteractionBlock",
    "interaction_cls": "RealAgnosticDensityResidualInteractionBlock",
    "distance_transform": "Agnesi",
    "pair_repulsion": True,
    "heads": ["pbe", "wb97m"],
    "atomic_energies": [[-1.0, -2.0, -3.0, -4.0], [-1.5, -2.5, -3.5, -4.5]],
    "atomic_inter_scale": [0.9, 1.2],
    "atomic_inter_shift": [0.1, -0.2],
}


def stronger(model: torch.nn.Module, make: Any) -> None:
    """Gives the last layers of a CACE model with its own sum other sizes."""
    for module in model.modules():
        if type(module).__name__ == "Atomwise":
            charges = getattr(module, "per_atom_output_key", None) is not None
            for dense in (module.outnet[-1], module.linear_nn):
                dense.linear.weight.data *= 20.0 if charges else 10.0


#: Options of the les package with all moments, which random weights make less than 1.
MOMENTS = {**nequip_models.MOMENTS["all"], "kappa_scale": 0.02, "alpha_scale": 0.02}
WITH_MOMENTS = {"les": MOMENTS, "l_max": 2, "parity": False, "model_dtype": "float32"}
#: With CACE's own sum: in a total of features, and in one of potentials.
CACE_EWALD: dict[str, dict[str, Any]] = {
    "cace_sum": {
        "elements": (8, 1, 7, 6),
        "container": "FeatureAdd",
        "scripted": True,
        "lmax": 1,
        "polarization": -0.19,
        "change": stronger,
    },
    "cace_combined": {
        "elements": ELEMENTS,
        "container": "CombinePotential",
        "charges": 2,
        "weight": "0.4",
        "messages": 1,
        "kinds": ("memory", "decay", "shared"),
        "functions": 2,
        "lmax": 1,
        "change": stronger,
    },
}


def scaled(energies: float, charges: float) -> Any:
    """Gives the last layers of a CACE model other sizes."""

    def change(model: torch.nn.Module, make: Any) -> None:
        readouts = model.output_modules[1], model.output_modules[0].les.atomwise
        for readout, factor in zip(readouts, (energies, charges), strict=True):
            for dense in (readout.outnet[-1], readout.linear_nn):
                dense.linear.weight.data *= factor
                dense.linear.bias.data *= factor

    return change


def moderate(parts: dict[str, Any]) -> None:
    """Scales the last layers of a CHGNet model down."""
    for name, tensor in parts["state"].items():
        if name.startswith("model.final_layer.layers.2"):
            tensor *= 0.08
        if name.startswith("model.latent_charge_readout.layers.2"):
            tensor *= 0.5


def written(name: str, folder: Path) -> Path:
    """The model file, made anew where this program knows how."""
    if name == "mace":
        return mace_models.synthetic_model(
            folder,
            elements=ELEMENTS,
            channels=3,
            max_L=2,
            max_ell=2,
            correlation=2,
            radial_MLP=[5],
            options=MACE_OPTIONS,
        )
    if name == "mace_moments":
        return mace_moments.write_mace_moments(
            folder / "mace_moments.model",
            elements=ELEMENTS,
            channels=2,
            max_L=2,
            max_ell=2,
            correlation=2,
            radial_MLP=[5],
        )
    if name == "mace_old":
        return mace_models.synthetic_model(
            folder, elements=ELEMENTS, channels=4, max_ell=2, radial_MLP=[6], vintage="old"
        )
    if name in CACE_EWALD:
        return cace_models.synthetic_cace(folder / f"{name}.pth", **CACE_EWALD[name])
    if name == "cace":
        return cace_models.synthetic_cace(
            folder / "cace.pth",
            elements=ELEMENTS,
            order=3,
            messages=1,
            functions=2,
            change=scaled(10.0, 20.0),
        )
    if name == "chgnet":
        return chgnet_models.synthetic_chgnet(
            folder / "chgnet",
            element_types=tuple(TYPES),
            scale=0.05,
            dtype=torch.float32,
            num_blocks=2,
            change=moderate,
        )
    if name.startswith(("nequip", "allegro")):
        family, _, moments = name.partition("_")
        make = getattr(nequip_models, f"synthetic_{family}")
        options: dict[str, Any] = dict(WITH_MOMENTS) if moments else {}
        if moments and family == "allegro":
            options["num_layers"] = 1  # couplings of tensors are most of a file
        return make(folder / f"{name}.ckpt", **OF_TYPES, **options)
    return checkpoint(name, folder)


def structures() -> dict[str, Atoms]:
    """Open, periodic and strained triclinic, with atoms outside of the box."""
    peptide = ase.io.read(PEPTIDE)
    peptide.rattle(0.03, seed=7)
    peptide = Atoms(peptide.numbers, peptide.positions)
    box, triclinic = waters(2, 2, 2, seed=0), waters(2, 2, 2, seed=9)
    triclinic.set_cell([[6.5, 0, 0], [1.9, 6.3, 0], [-2.1, 2.6, 6.4]], scale_atoms=True)
    triclinic.positions[:7] += triclinic.cell.array[0] - 2 * triclinic.cell.array[2]
    return {
        "peptide": peptide,
        "water": box,
        "triclinic": triclinic,
        "atom": Atoms("O", [[0, 0, 0]]),
    }


def values(family: str, reference: Any, les: dict[str, Any], atoms: Atoms) -> dict[str, Any]:
    """What the model says of a structure, under the names of `helpers.references`."""
    cell = atoms.cell.array if atoms.pbc.all() else None
    found = reference.evaluate(atoms.positions, atoms.numbers, cell)
    got = {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "cell": atoms.cell.array,
        "pbc": atoms.pbc,
        "energy": found.energy,
        "forces": found.forces,
        "latent_charges": found.charges,
        "les_energy": les_energy(found, les, atoms),
    }
    if found.moments is not None and sheared(atoms):  # one structure, since they are many numbers
        got |= {theirs: getattr(found.moments, ours) for ours, theirs in MOMENT_NAMES.items()}
    if cell is not None and family != "chgnet":  # whose energy has steps
        got["stress"] = strain_derivative(reference, atoms) / atoms.get_volume()
    return got


def sheared(atoms: Atoms) -> bool:
    """Whether it is the triclinic structure."""
    return bool(atoms.pbc.all() and np.abs(atoms.cell.array - np.diag(np.diag(atoms.cell))).any())


def les_energy(found: Any, les: dict[str, Any], atoms: Atoms) -> float:
    """That of charges or moments [eV], by the oracles of the tests."""
    names = [field.name for field in dataclasses.fields(ewald.Parameters) if field.name in les]
    parameters = ewald.Parameters(**{name: les[name] for name in names})
    places = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    if found.moments is not None:
        latents = [getattr(found.moments, name) for name in multipoles.NAMES]
        tensors = [None if each is None else torch.tensor(each) for each in latents]
        energy = multipoles.periodic if atoms.pbc.all() else multipoles.open_boundaries
        return float(multipoles.derivatives(energy(parameters), tensors, *places)["energy"])
    total = ewald.k_sum(parameters) if atoms.pbc.all() else ewald.pair_sum(parameters)
    channels = torch.tensor(found.charges).view(len(atoms), -1).T
    return sum(float(total(charges, *places)) for charges in channels)


def strain_derivative(reference: Any, atoms: Atoms, step: float = 1e-4) -> np.ndarray:
    """dE/dstrain [eV], by differences of sixth order."""
    found = np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):
        for count, weight in ((1, 45.0), (2, -9.0), (3, 1.0)):
            for sign in (1, -1):
                strain = np.eye(3)
                strain[a, b] += sign * count * step
                moved, box = atoms.positions @ strain.T, atoms.cell.array @ strain.T
                energy = reference.evaluate(moved, atoms.numbers, box).energy
                found[a, b] += sign * weight * energy / (60 * step)
    return found


def main(names: list[str]) -> None:
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            made = written(name, Path(folder))
            kept = FOLDER / made.name
            if made == kept:
                pass
            elif made.is_dir():
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(made, kept)
            elif name.startswith("mace"):  # a MACE file is for nine tenths code of e3nn
                kept = FOLDER / f"{name}.model.xz"
                kept.write_bytes(lzma.compress(made.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
            else:
                shutil.copy(made, kept)
            model = read_model(made, **export_options(name))
            reference = reference_model(open_model(made), model)
            arrays = {"names": np.array(list(structures()))}
            for i, atoms in enumerate(structures().values()):
                got = values(name, reference, model.les, atoms)
                arrays |= {f"{i}/{key}": np.asarray(value) for key, value in got.items()}
                charges, forces = got["latent_charges"], got["forces"]
                print(
                    f"{name:9} {arrays['names'][i]:10} forces {np.abs(forces).max():.3f} eV/A, "
                    f"charges {charges.mean():.3f} +- {charges.std():.3f} e, "
                    f"LES {got['les_energy']:.3f} eV"
                )
            np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
