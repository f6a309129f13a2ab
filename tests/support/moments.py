"""Models with latent moments that need no file; tests of them use the fixture `moments_family`."""

from pathlib import Path

import numpy as np
from ase import Atoms
from oracles.moments_family import model_with_moments

from openmm_les import artifact as artifacts
from openmm_les.artifact import Artifact

#: No reciprocal vector is near the cutoff, where differences of energies would have steps.
CELL = [[9.3, 0, 0], [1.3, 9.7, 0], [-0.9, 2.2, 10.3]]
#: Which moments a model may have, by name.
MOMENTS = {
    "all": {"dipoles": True, "quadrupoles": True, "kappa": True, "alpha": "anisotropic"},
    "isotropic": {"dipoles": True, "quadrupoles": True, "kappa": True, "alpha": "isotropic"},
    "permanent": {"dipoles": True, "quadrupoles": True},
    "dipoles": {"dipoles": True},
    "kappa": {"kappa": True},
    "alpha": {"alpha": "anisotropic"},
}


def moments_artifact(
    moments: str | dict = "all",
    path: Path | None = None,
    *,
    charge_sign: int | None = 1,
    **les,
) -> Artifact:
    """The demonstration model with moments, by name or as in its hyper-parameters.

    It is saved and opened again where a path is given. `les` are other parameters of its
    electrostatics, such as ``bec_remove_mean=True``.
    """
    chosen = MOMENTS[moments] if isinstance(moments, str) else moments
    canonical = model_with_moments(chosen, **les)
    if path is None:
        return Artifact.unsaved(canonical, Path("moments.les.pt"), charge_sign=charge_sign)
    artifacts.save(canonical, path, dtype="float64", charge_sign=charge_sign)
    return artifacts.load(path)


def two_waters(periodic: bool) -> Atoms:
    one = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    positions = np.concatenate([one, one[:, [1, 2, 0]] + [2.9, 0.3, -0.4]])
    return Atoms("OHHHOH", positions[[0, 1, 2, 4, 3, 5]], cell=CELL, pbc=periodic)
