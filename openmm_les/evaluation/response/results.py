"""What a response is to its user, and what follows from several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError
from openmm_les.evaluation.results import LatentMoments


@dataclass(frozen=True)
class PhysicalMoments:
    """Moments of atoms in the units and with the factors of `Response`, float64.

    Attributes:
        charges: permanent and induced, shape (n,) [e].
        dipoles: permanent and induced, shape (n, 3) [e A]; None where a model has none.
        quadrupoles: traceless primitive second moments, shape (n, 3, 3) [e A^2]; None likewise.
        alpha: polarizabilities of atoms, shape (n,) or (n, 3, 3) [e A^2/V]; None likewise.
        polarizability: their sum, as that of a `Response`, shape (3, 3) [e A^2/V]; None likewise.
    """

    charges: FloatArray
    dipoles: FloatArray | None
    quadrupoles: FloatArray | None
    alpha: FloatArray | None
    polarizability: FloatArray | None

    def dipole(self, positions: npt.ArrayLike) -> FloatArray:
        """The dipole of an open system, from positions (n, 3) [A], shape (3,) [e A]."""
        dipole: FloatArray = self.charges @ np.asarray(positions, dtype=np.float64)
        return dipole if self.dipoles is None else dipole + self.dipoles.sum(axis=0)


@dataclass(frozen=True)
class Response:
    """Charges, dipole and Born effective charges of one structure, float64.

    Charges are those that the polarization is made of: latent charges times the model's
    ``charge_sign`` (oxygen negative) and the root of its ``bec_epsilon_factor``, without their mean
    where the model says so (``bec_remove_mean``).

    Latent dipoles and quadrupoles have the same factor, polarizabilities its square. Moments are
    permanent and induced ones.

    Attributes:
        charges: shape (n,) [e].
        dipole: sum_i q_i r_i, and the sum of the dipoles of atoms, shape (3,) [e A]; None for a
            periodic system, where only differences are defined. It depends on the origin if the
            charges do not add up to zero.
        born_charges: dP_a/dr_ib of the cell's dipole P, shape (n, 3, 3) [e]; axes are atom,
            direction a of P, direction b of the displacement.
        les_energy: of the latent charges and moments, as that of an `Evaluation` [eV].
        dipoles: of atoms, shape (n, 3) [e A]; None where a model has charges alone.
        born_dipoles: what these dipoles give to `born_charges`, shape (n, 3, 3) [e]; None likewise.
        polarizability: sum of the polarizabilities of atoms, shape (3, 3) [e A^2/V]; None where a
            model has none. Atoms do not feel each other's induced dipoles, and charges do not
            respond to an electric field: neither is in it.
        moments: latent ones, None where a model has charges alone.
    """

    charges: FloatArray
    dipole: FloatArray | None
    born_charges: FloatArray
    les_energy: float = float("nan")
    dipoles: FloatArray | None = None
    born_dipoles: FloatArray | None = None
    polarizability: FloatArray | None = None
    moments: LatentMoments | None = None

    @property
    def acoustic_sum(self) -> FloatArray:
        """sum_i Z*_i, shape (3, 3) [e]: zero if a translation does not change the polarization.

        It is not made to vanish: what is left is an error of the model, or of the periodic formula.
        """
        return np.asarray(self.born_charges.sum(0))


def polarization_change(
    responses: Sequence[Response], positions: Sequence[npt.ArrayLike]
) -> FloatArray:
    """Change of the dipole of the cell along a path, from its first structure [e A].

    dP = sum_i Z*_i dr_i, integrated by the trapezoidal rule: its error is of second order in the
    displacement between neighbouring structures. For open systems it is the difference of dipoles.

    Args:
        responses: of at least one structure, all of the same atoms.
        positions: of the same structures, each of shape (n, 3) [A]. Atoms must be followed across
            the faces of the box, not put back into it.

    Returns:
        Shape (number of structures, 3); the first row is zero.

    Raises:
        InputError: no structure, or not one for each response and of its shape.
    """
    shapes = [np.shape(r) for r in positions]
    if not responses or shapes != [(len(x.charges), 3) for x in responses]:
        raise InputError(
            "positions: expected one array of shape (n, 3) for each of the responses, got shapes "
            f"{shapes} for responses of {[len(x.charges) for x in responses]} atoms"
        )
    dipoles = [x.dipole for x in responses if x.dipole is not None]
    if len(dipoles) == len(responses):
        return np.array(dipoles) - dipoles[0]
    born = np.array([x.born_charges for x in responses])
    displacements = np.diff(np.asarray(positions, dtype=np.float64), axis=0)
    steps = np.einsum("tiab,tib->ta", 0.5 * (born[1:] + born[:-1]), displacements)
    return np.asarray(np.cumsum(np.concatenate([np.zeros((1, 3)), steps]), axis=0))
