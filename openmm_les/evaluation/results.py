"""What a `SystemModel` returns for one structure."""

from __future__ import annotations

from dataclasses import dataclass

from openmm_les.arrays import FloatArray


@dataclass(frozen=True)
class Evaluation:
    """Results for one structure, float64 in the order of the given atoms.

    Attributes:
        energy: interaction energy, without isolated-atom references [eV].
        forces: shape (n, 3) [eV/A].
        charges: latent charges with the model's own sign, 0 for MM charges, shape (n,) [e]; (n,
            channels) for models with several charges for each atom.
        virial: dE/dstrain, shape (3, 3) [eV].
        les_energy: the part of `energy` that latent charges have, the LES sum of the model [eV];
            the rest is short-range. Among MM charges it includes the coupling to them, in an
            electric field the term -E mu.
    """

    energy: float
    forces: FloatArray
    charges: FloatArray
    virial: FloatArray
    les_energy: float
