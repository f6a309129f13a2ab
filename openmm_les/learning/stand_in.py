"""Classes under the names of the les package, for mace-torch and for the files that it writes.

mace-torch imports ``les.Les``, and a model file names the classes of what is in it. These have the
attributes that readers of such files look for; the energy is that of `LES`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from openmm_les.errors import InputError
from openmm_les.learning.energy import LES

#: What ``les_arguments`` may hold, with defaults. The last ones, from `n_layers` on, are idle where
#: charges are those of readouts, as in MACE.
_DEFAULTS: dict[str, Any] = {
    "sigma": 1.0,
    "dl": 2.0,
    "remove_self_interaction": True,
    "remove_mean": True,
    "epsilon_factor": 1.0,
    "n_layers": 3,
    "n_hidden": [32, 16],
    "add_linear_nn": True,
    "output_scaling_factor": 0.1,
    "fixed_atomic_charges_scaling_factor": 0.5,
}
#: What is refused unless it is off; every model has these as attributes ...
_RECORDED = (
    "use_atomwise",
    "use_fixed_atomic_charges",
    "use_atomic_alpha",
    "use_epsilon_r_scaling",
)
#: ... and not these.
_SWITCHES = (
    *_RECORDED,
    *("use_dipole", "use_quad", "use_induced_charge", "use_induced_dipole", "compute_bec"),
)
#: Idle without a switch.
_IDLE = ("bec_output_index", "is_periodic", "N_max")
_PREFACTOR = 90.4756  # eV A / e^2


class Ewald(nn.Module):
    """Parameters of the sum."""

    __module__ = "les.module.ewald"

    def __init__(self, sigma: float, dl: float, remove_self_interaction: bool) -> None:
        super().__init__()
        self.sigma, self.dl = sigma, dl
        self.sigma_sq_half, self.k_sq_max = sigma**2 / 2, (2 * math.pi / dl) ** 2
        self.twopi, self.twopi_sq = 2 * math.pi, (2 * math.pi) ** 2
        self.remove_self_interaction, self.norm_factor = remove_self_interaction, _PREFACTOR
        self.use_epsilon_r_scaling = False


class BEC(nn.Module):
    """Parameters of Born effective charges, which the exported model has."""

    __module__ = "les.module.bec"

    def __init__(self, remove_mean: bool, epsilon_factor: float) -> None:
        super().__init__()
        self.remove_mean, self.epsilon_factor = remove_mean, epsilon_factor
        self.normalization_factor = math.sqrt(epsilon_factor)


class _DummyAtomwise(nn.Module):
    """In place of a network for charges: those of MACE come from its readouts."""

    __module__ = "les.les"


class Les(nn.Module):
    """The LES energy as MACE calls it."""

    __module__ = "les.les"

    def __init__(self, les_arguments: Mapping[str, Any] | None = None) -> None:
        """Set up the constants, from ``--les_arguments`` of mace-torch.

        Raises:
            InputError: an argument that is unknown, or on and not supported.
        """
        super().__init__()
        given = dict(les_arguments or {})
        unknown = set(given) - {*_DEFAULTS, *_SWITCHES, *_IDLE}
        if unknown:
            raise InputError(
                f"les_arguments: expected some of {', '.join((*_DEFAULTS, *_SWITCHES))}, got "
                f"{', '.join(sorted(unknown))}"
            )
        on = [name for name in _SWITCHES if given.get(name)]
        if given.get("is_periodic") is not None:  # which would decide for every structure
            on.append("is_periodic")
        if on:
            raise InputError(
                f"les_arguments: {', '.join(on)}: not available where the les package is not "
                "installed; leave it out"
            )
        values = _DEFAULTS | {name: given[name] for name in _DEFAULTS if name in given}
        for name, value in values.items():
            setattr(self, name, value)
        for name in _RECORDED:
            setattr(self, name, False)
        self.atomwise = _DummyAtomwise()
        self.ewald = Ewald(values["sigma"], values["dl"], values["remove_self_interaction"])
        self.bec = BEC(values["remove_mean"], values["epsilon_factor"])
        _energy_of(self.ewald)  # refuses constants that make no sense at once

    def forward(
        self,
        latent_charges: Tensor,
        positions: Tensor,
        cell: Tensor,
        batch: Tensor | None = None,
        compute_energy: bool = True,
        compute_bec: bool = False,
        bec_output_index: int | None = None,
    ) -> dict[str, Tensor | None]:
        """Energies ``E_lr`` of the structures; their ``BEC`` are never computed.

        The arguments are those of `LES`, and what mace-torch asks for.

        Raises:
            InputError: Born effective charges are asked for.
        """
        if compute_bec:
            raise InputError(
                "compute_bec: Born effective charges are computed by exported models: use "
                "`openmm-les export` and SystemModel.response"
            )
        energy = _energy_of(self.ewald)(latent_charges, positions, batch, cell)
        return {"E_lr": energy if compute_energy else None, "BEC": None}


def _energy_of(ewald: Ewald) -> LES:
    """Made anew, so that files hold nothing but parameters."""
    return LES(
        sigma=ewald.sigma,
        dl=ewald.dl,
        prefactor=ewald.norm_factor,
        remove_self_interaction=ewald.remove_self_interaction,
    )


def register() -> bool:
    """Let these classes be imported as ``les``, unless the les package is installed.

    Returns whether they are.
    """
    if "les" in sys.modules or find_spec("les") is not None:
        return getattr(sys.modules.get("les"), "Les", None) is Les
    for name in ("les", "les.les", "les.module", "les.module.ewald", "les.module.bec"):
        sys.modules[name] = ModuleType(name)
    for part in (Les, _DummyAtomwise, Ewald, BEC):
        setattr(sys.modules[part.__module__], part.__name__, part)
    sys.modules["les"].Les = Les  # type: ignore[attr-defined]
    return True
