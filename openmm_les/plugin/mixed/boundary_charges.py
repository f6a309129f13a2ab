"""MM charges at a cut bond, as an electrostatically embedded ML region feels them.

The charge of M1, the MM atom that a link atom replaces, is too close to the region to act as a
point charge. Schemes, for M1 with charge q and its n MM neighbours M2:

- ``none``: as the force field has them;
- ``z1``: M1 has none. The total changes by -q;
- ``shift``: q goes to the atoms M2 in equal parts, and a pair of charges at each M2 restores the
  dipole moment (P. Sherwood et al., J. Mol. Struct. THEOCHEM 632, 1 (2003));
- ``rcd``: q goes to the middles of the bonds M1-M2, where its parts are doubled at the cost of M2,
  which preserves total and dipole moment (H. Lin and D. G. Truhlar, J. Phys. Chem. A 109, 3991
  (2005)).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError

Scheme: TypeAlias = Literal["none", "z1", "shift", "rcd"]
# Half the length of the dipole at M2, as a fraction of the bond M1-M2: about 0.1 A.
_DIPOLE = 0.06


class BondCharge(NamedTuple):
    """A point charge [e] on the line through M1 (`first`) and M2 (`second`).

    It is at (1 - fraction) r_first + fraction r_second, and forces on it act on the two atoms with
    the same weights.
    """

    first: int
    second: int
    fraction: float
    charge: float


def redistribute(
    charges: ArrayLike,
    hosts: Collection[int],
    neighbors: Sequence[Collection[int]],
    inside: Collection[int],
    scheme: Scheme,
) -> tuple[FloatArray, tuple[BondCharge, ...]]:
    """Change the charges [e] of all particles around the atoms M1 (`hosts`) of cut bonds.

    Those of ML atoms (`inside`) stay as they are. Charges on bonds come in addition.
    """
    changed = np.array(charges, dtype=np.float64)
    on_bonds: list[BondCharge] = []
    if scheme == "none":
        return changed, ()
    for host in hosts:
        charge = float(changed[host])
        changed[host] = 0.0
        receivers = sorted(set(neighbors[host]) - set(inside) - set(hosts))
        if scheme == "z1" or charge == 0.0:
            continue
        if not receivers:
            raise InputError(
                f"boundaryCharges: {scheme!r} needs MM neighbours to give a charge to, and atom "
                f"{host} at a cut bond has none; use boundaryCharges='z1', or move the border of "
                "the ML region"
            )
        part = charge / len(receivers)
        for receiver in receivers:
            if scheme == "rcd":
                changed[receiver] -= part
                on_bonds.append(BondCharge(host, receiver, 0.5, 2.0 * part))
            else:
                changed[receiver] += part
                strength = part / (2.0 * _DIPOLE)
                on_bonds += [
                    BondCharge(host, receiver, 1.0 - _DIPOLE, strength),
                    BondCharge(host, receiver, 1.0 + _DIPOLE, -strength),
                ]
    return changed, tuple(on_bonds)
