"""What a `SystemModel` returns for one structure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from openmm_les.arrays import FloatArray
from openmm_les.electrostatics.multipoles import LatentLayout


@dataclass(frozen=True)
class LatentMoments:
    """Latent moments and coefficients of response, float64, None for what a model lacks.

    All are the model's own, like latent charges; axes are Cartesian.

    Attributes:
        charges: permanent ones, shape (n,) [e].
        dipoles: permanent ones, shape (n, 3) [e A].
        quadrupoles: traceless primitive second moments, shape (n, 3, 3) [e A^2].
        kappa: charge response, shape (n,) [e/V].
        alpha: polarizability, shape (n,) or (n, 3, 3) [e A^2/V].
        induced_charges: -kappa times the potential, shape (n,) [e].
        induced_dipoles: alpha times the field, shape (n, 3) [e A].
    """

    charges: FloatArray
    dipoles: FloatArray | None
    quadrupoles: FloatArray | None
    kappa: FloatArray | None
    alpha: FloatArray | None
    induced_charges: FloatArray | None
    induced_dipoles: FloatArray | None

    @property
    def total_charges(self) -> FloatArray:
        """Permanent and induced charges, shape (n,) [e]."""
        return self.charges if self.induced_charges is None else self.charges + self.induced_charges

    @property
    def total_dipoles(self) -> FloatArray | None:
        """Permanent and induced dipoles, shape (n, 3) [e A]."""
        if self.dipoles is None or self.induced_dipoles is None:
            return self.induced_dipoles if self.dipoles is None else self.dipoles
        return self.dipoles + self.induced_dipoles


def latent_moments(latents: FloatArray, layout: LatentLayout) -> LatentMoments:
    """From what modules return, shape (n, rows), see `openmm_les.evaluation.conclusion.Results`."""
    n = len(latents)

    def taken(first: int, *shape: int) -> FloatArray | None:
        if first < 0:
            return None
        return np.ascontiguousarray(latents[:, first : first + math.prod(shape)]).reshape(n, *shape)

    alpha_shape = () if layout.alpha_rows == 1 else (3, 3)
    return LatentMoments(
        charges=np.ascontiguousarray(latents[:, 0]),
        dipoles=taken(layout.dipoles, 3),
        quadrupoles=taken(layout.quadrupoles, 3, 3),
        kappa=taken(layout.kappa),
        alpha=taken(layout.alpha, *alpha_shape),
        induced_charges=taken(layout.rows) if layout.kappa >= 0 else None,
        induced_dipoles=taken(layout.rows + 1, 3) if layout.alpha >= 0 else None,
    )


@dataclass(frozen=True)
class Evaluation:
    """Results for one structure, float64 in the order of the given atoms.

    Attributes:
        energy: interaction energy, without isolated-atom references [eV].
        forces: shape (n, 3) [eV/A].
        charges: latent charges with the model's own sign, 0 for MM charges, shape (n,) [e]; (n,
            channels) for models with several charges for each atom. Of models with latent moments
            they are permanent and induced ones.
        virial: dE/dstrain, shape (3, 3) [eV].
        les_energy: the part of `energy` that latent charges have, the LES sum of the model [eV];
            the rest is short-range. Among MM charges it includes the coupling to them, in an
            electric field the term -E mu.
        moments: of models that have more than charges; zeros for MM charges.
    """

    energy: float
    forces: FloatArray
    charges: FloatArray
    virial: FloatArray
    les_energy: float
    moments: LatentMoments | None = None
