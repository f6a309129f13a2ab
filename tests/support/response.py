"""Born effective charges by differences, and models with other parameters of their response."""

import dataclasses

import numpy as np
from ase import Atoms
from support.gradients import box_of
from support.helpers import dipeptide

from openmm_les import artifact as artifacts

SKEWED = np.array([[11.0, 0.0, 0.0], [-3.2, 12.0, 0.0], [2.9, 3.7, 10.5]])


def peptide(periodic=False) -> Atoms:
    """A peptide; periodic, it feels its images in a skewed box."""
    atoms = dipeptide(0)[:22]
    if periodic:
        atoms.set_cell(SKEWED)
        atoms.pbc = True
    return atoms


def artifact_with(demo, path, charge_sign=1, **les):
    """The bundled model with other parameters of its response."""
    canonical = dataclasses.replace(demo.canonical, les=demo.canonical.les | les)
    artifacts.save(canonical, path, charge_sign=charge_sign, module=demo.module)
    return artifacts.load(path)


def polarization(charges, positions, cell):
    """P of an open system; of a periodic one, the complex amplitude of each lattice vector."""
    if cell is None:
        return charges @ positions
    phases = np.exp(2j * np.pi * positions @ np.linalg.inv(cell))
    return charges @ phases / (2j * np.pi)


def finite_differences(model, structure, atom, step=1e-4):
    """dP_a/dr_b of one atom, from charges and dipoles of displaced structures alone."""
    r, cell = structure.positions, box_of(structure)
    born = np.zeros((3, 3))
    for axis in range(3):
        ends, dipoles = [], []
        for sign in (1, -1):
            moved = r.copy()
            moved[atom, axis] += sign * step
            charges, dipole = _physical(model, moved)
            ends.append(polarization(charges, moved, cell))
            dipoles.append(dipole)
        slope = (ends[0] - ends[1]) / (2 * step)
        if cell is not None:  # as seen from the atom
            turned = np.exp(-2j * np.pi * r[atom] @ np.linalg.inv(cell)) * slope
            slope = turned.real @ cell
        born[:, axis] = slope + (dipoles[0] - dipoles[1]) / (2 * step)
    return born


def _physical(model, positions):
    """Charges, and the sum of the dipoles of models with moments."""
    found = model.evaluate(positions)
    if found.moments is None:
        return model.physical_charges(found.charges), np.zeros(3)
    moments = model.physical_moments(found.moments)
    dipole = np.zeros(3) if moments.dipoles is None else moments.dipoles.sum(0)
    return moments.charges, dipole
