"""Random multipoles and the sums over them, for the tests of the electrostatics."""

import numpy as np
import torch
from oracles import multipoles as oracle
from oracles.ewald import Parameters
from support.charges import DOUBLE, KEPT, tensor

from openmm_les.electrostatics import EwaldOptions
from openmm_les.electrostatics.multipoles import SiteMoments, build_multipoles

#: Which of q, u, Q, kappa, alpha (isotropic) and A (anisotropic) a model has.
KINDS = ("q", "qu", "quQ", "qk", "qA", "quk", "quQka", "quQkA", "qQa")


def random_moments(kind: str, n: int, seed=0) -> SiteMoments:
    """Moments of a kind; quadrupoles are symmetric and traceless."""
    random = np.random.default_rng(seed)
    charges, dipoles = random.normal(0.05, 0.4, n), random.normal(0, 0.2, (n, 3))
    tensors, alpha = random.normal(0, 0.2, (2, n, 3, 3))
    tensors = tensors + tensors.transpose(0, 2, 1)
    tensors -= np.trace(tensors, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    alpha = alpha @ alpha.transpose(0, 2, 1) * 0.2
    isotropic = alpha.trace(axis1=1, axis2=2) / 3
    kappa = random.uniform(0.005, 0.02, n)
    return SiteMoments(
        tensor(charges),
        tensor(dipoles) if "u" in kind else None,
        tensor(tensors) if "Q" in kind else None,
        tensor(kappa) if "k" in kind else None,
        tensor(alpha) if "A" in kind else tensor(isotropic) if "a" in kind else None,
    )


def sum_for(moments, cell, parameters: Parameters = KEPT, method="direct", **options):
    """The sum for moments in a cell, or without one (None)."""
    degree = 2 if moments.quadrupoles is not None else int(moments.dipoles is not None)
    induced = 1 if moments.alpha is not None else 0 if moments.kappa is not None else -1
    les = {name: value for name, value in vars(parameters).items() if value is not None}
    tolerance = options.pop("tolerance", 1e-5)
    return build_multipoles(
        les,
        cell is not None,
        cell,
        options.pop("dtype", DOUBLE),
        degree=degree,
        induced_degree=induced,
        num_atoms=len(moments.charges),
        options=EwaldOptions(method if cell is not None else "auto", tolerance),
        **options,
    )


def errors(found, expected) -> dict[str, float]:
    """Largest error of each result relative to its largest entry.

    An energy is a difference of large terms, as is the derivative by strain: both have the larger
    one's scale.
    """
    scale = {name: float(value.abs().max()) for name, value in expected.items()}
    scale["energy"] = max(scale["energy"], scale.get("strain", 0.0))
    scale["strain"] = scale["energy"]
    return {
        name: float((getattr(found, name).double() - value).abs().max()) / (scale[name] or 1.0)
        for name, value in expected.items()
    }


def rms_errors(found, expected) -> dict[str, float]:
    """RMS error over RMS value of each result but the energy."""
    return {
        name: float((getattr(found, name).double() - value).norm() / value.norm())
        for name, value in expected.items()
        if name != "energy"
    }


def results(found) -> dict[str, torch.Tensor]:
    """The energy and the derivatives that are there, potential and field, by name."""
    names = ("energy", *oracle.NAMES, "gradient", "strain", "potential", "field")
    return {name: value for name in names if (value := getattr(found, name)) is not None}
