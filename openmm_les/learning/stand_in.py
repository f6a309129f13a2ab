"""Classes under the names of the les package, for mace-torch and for the files that it writes.

mace-torch imports ``les.Les``, and a model file names the classes of what is in it. These have the
attributes that readers of such files look for; the energy is that of `LES`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from openmm_les.errors import InputError
from openmm_les.learning.born import born_charges
from openmm_les.learning.energy import LES

#: What ``les_arguments`` may hold, with defaults: first the constants of the energy ...
CONSTANTS: dict[str, Any] = {
    "sigma": 1.0,
    "dl": 2.0,
    "remove_self_interaction": True,
    "remove_mean": True,
    "epsilon_factor": 1.0,
    "norm_factor": 90.4756,  # eV A / e^2; the les package has its own, and takes none
}
#: ... then what is idle where charges are those of readouts, as in MACE.
_IDLE_DEFAULTS: dict[str, Any] = {
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
#: ... and not these. mace-torch up to 0.3.16 has no readouts for moments.
_MOMENTS = (
    *("use_dipole", "use_quad", "use_quadrupole", "use_induced_charge", "use_induced_dipole"),
    *("use_dipoles", "use_quads", "use_induced_charges", "use_induced_dipoles"),
)
#: Idle while those are off.
_IDLE = (
    *("charge_dict", "alpha_dict", "kappa_scale", "alpha_scale", "kappa_alpha_positive"),
    *("make_kappa_positive", "make_alpha_positive", "use_anisotropic_polarizability"),
    *("alpha_irreps", "alpha_1o_nonlinear_readout", "alpha_1o_linear_w_pos"),
)
#: Which structures there are, and the largest integers of their reciprocal vectors.
_BOUNDARIES = ("is_periodic", "N_max")
#: mace-torch reads these itself.
_OF_MACE = ("compute_bec", "bec_output_index")


class Ewald(nn.Module):
    """Parameters of the sum."""

    __module__ = "les.module.ewald"

    def __init__(
        self, sigma: float, dl: float, remove_self_interaction: bool, norm_factor: float
    ) -> None:
        super().__init__()
        self.sigma, self.dl = sigma, dl
        self.sigma_sq_half, self.k_sq_max = sigma**2 / 2, (2 * math.pi / dl) ** 2
        self.twopi, self.twopi_sq = 2 * math.pi, (2 * math.pi) ** 2
        self.remove_self_interaction, self.norm_factor = remove_self_interaction, norm_factor
        self.use_epsilon_r_scaling = False


class Ewald_vectorized(Ewald):
    """The same for periodic structures alone, or open ones, with a range of reciprocal vectors.

    The buffers are those that the original sums over; nothing here does.
    """

    __module__ = "les.module.ewald_vectorized"

    N_max: int

    def __init__(self, *constants: Any, is_periodic: bool, n_max: int) -> None:
        super().__init__(*constants)
        self.is_periodic, self.N_max = is_periodic, n_max
        integers = torch.arange(-n_max, n_max + 1)
        vectors = torch.cartesian_prod(integers, integers, integers)
        # Those with a positive first coordinate that is not zero stand for their opposites, too.
        half = (vectors * torch.tensor([(4 * n_max) ** 2, 4 * n_max, 1])).sum(1) >= 0
        self.register_buffer("nvec_all", vectors)
        self.register_buffer("hemisphere_mask", half)
        self.register_buffer("factors", 1.0 + vectors.any(dim=1).to(torch.float32))


class BEC(nn.Module):
    """Parameters of Born effective charges."""

    __module__ = "les.module.bec"

    def __init__(self, remove_mean: bool, epsilon_factor: float) -> None:
        super().__init__()
        self.remove_mean, self.epsilon_factor = remove_mean, epsilon_factor
        self.normalization_factor = math.sqrt(epsilon_factor)


class _DummyAtomwise(nn.Module):
    """In place of a network for charges: those of MACE come from its readouts."""

    __module__ = "les.les"


class Atomwise(nn.Module):
    """The same in older files."""

    __module__ = "les.module.atomwise"


class FixedCharges(nn.Module):
    """A table of charges in files of the original, idle where it is off."""

    __module__ = "les.module.fixedcharges"


class AtomicAlpha(nn.Module):
    """The same for polarizabilities."""

    __module__ = "les.module.atomicalpha"


class Les(nn.Module):
    """The LES energy as MACE calls it."""

    __module__ = "les.les"

    is_periodic: bool | None = None  # what older files do not have

    def __init__(self, les_arguments: Mapping[str, Any] | None = None) -> None:
        """Set up the constants, from ``--les_arguments`` of mace-torch.

        Raises:
            InputError: an argument that is unknown, of another type, or on and not supported.
        """
        super().__init__()
        given = checked_arguments(les_arguments)
        defaults, switches = CONSTANTS | _IDLE_DEFAULTS, (*_RECORDED, *_MOMENTS)
        unknown = set(given) - {*defaults, *switches, *_IDLE, *_BOUNDARIES, *_OF_MACE}
        if unknown:
            raise InputError(
                f"les_arguments: expected some of {', '.join((*defaults, *_BOUNDARIES))}, got "
                f"{', '.join(sorted(unknown))}"
            )
        _refuse([name for name in switches if given.get(name)])
        if given.get("compute_bec") and given.get("bec_output_index") is not None:
            _refuse_index(given["bec_output_index"])
        values = defaults | {name: given[name] for name in defaults if name in given}
        norm_factor = values.pop("norm_factor")
        for name, value in values.items():
            setattr(self, name, value)
        for name in _RECORDED:
            setattr(self, name, False)
        self.atomwise = _DummyAtomwise()
        constants = (values["sigma"], values["dl"], values["remove_self_interaction"], norm_factor)
        self.ewald = Ewald(*constants)
        if given.get("is_periodic") is not None:
            self.is_periodic, self.N_max = _boundaries(given)
            self.ewald = Ewald_vectorized(
                *constants, is_periodic=self.is_periodic, n_max=self.N_max
            )
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
        """Energies ``E_lr`` of the structures, and Born effective charges ``BEC`` of the atoms.

        The arguments are those of `LES`, and what mace-torch asks for: ``compute_bec`` for the
        second, shape [n, 3, 3] [e], see `born_charges`.

        Raises:
            InputError: the model has moments, the structures are others than ``is_periodic`` says,
                or only a part of the Born effective charges is asked for.
        """
        # A model that was read from a file may have what none that was made here has.
        _refuse([name for name in (*_RECORDED, *_MOMENTS) if getattr(self, name, False)])
        if batch is None:
            batch = torch.zeros(len(positions), dtype=torch.int64, device=positions.device)
        cells = cell.reshape(-1, 3, 3)
        if self.is_periodic is not None:
            self._check_boundaries(cells)
        energy = born = None
        if compute_energy:
            energy = _energy_of(self.ewald)(latent_charges, positions, batch, cells)
        if compute_bec:
            if bec_output_index is not None:
                _refuse_index(bec_output_index)
            remove_mean, factor = self.bec.remove_mean, self.bec.normalization_factor
            charges = latent_charges.reshape(len(positions))
            born = born_charges(
                charges, positions, batch, cells, remove_mean=remove_mean, factor=factor
            )
        return {"E_lr": energy, "BEC": born}

    def _check_boundaries(self, cells: Tensor) -> None:
        """Refuse structures that are not as ``is_periodic`` says."""
        is_box = cells.detach().flatten(1).any(dim=1)
        wrong = is_box.logical_not() if self.is_periodic else is_box
        if bool(wrong.any()):
            i = int(torch.nonzero(wrong)[0])
            raise InputError(
                f"les_arguments: expected structures that agree with is_periodic: "
                f"{self.is_periodic}, got {int(wrong.sum())} of {len(wrong)} in a batch (the first "
                f"is number {i}) that do not; leave is_periodic out where there are both"
            )


def checked_arguments(given: Any) -> dict[str, Any]:
    """``les_arguments`` as a dict, whose constants are of the types of `CONSTANTS`.

    Raises:
        InputError: they are no mapping, or a constant is no number, or not true or false.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            f"les_arguments: expected names with values, such as `sigma: 1.0`, got {given!r}"
        )
    for name in CONSTANTS.keys() & given.keys():
        value, is_switch = given[name], isinstance(CONSTANTS[name], bool)
        if is_switch and not isinstance(value, bool):
            raise InputError(f"les_arguments: {name}: expected true or false, got {value!r}")
        if not is_switch and (isinstance(value, bool) or not isinstance(value, int | float)):
            hint = " (in YAML write 1.0, not 1e0)" if isinstance(value, str) else ""
            raise InputError(f"les_arguments: {name}: expected a number, got {value!r}{hint}")
        if not is_switch and not 0.0 < value < math.inf:
            raise InputError(f"les_arguments: {name}: expected a number > 0, got {value}")
    return dict(given)


def _refuse_index(index: Any) -> None:
    raise InputError(
        f"bec_output_index: expected none, for all Born effective charges, got {index}; leave it "
        "out"
    )


def _boundaries(given: Mapping[str, Any]) -> tuple[bool, int]:
    is_periodic, n_max = given["is_periodic"], given.get("N_max", 10)
    if not isinstance(is_periodic, bool):
        raise InputError(f"les_arguments: is_periodic: expected true or false, got {is_periodic!r}")
    if type(n_max) is not int or not 1 <= n_max <= 50:
        raise InputError(f"les_arguments: N_max: expected an integer of 1 to 50, got {n_max!r}")
    return is_periodic, n_max


def _refuse(on: Sequence[str]) -> None:
    """Raise an error for options that are on."""
    if on:
        why = ". mace-torch 0.3.16 and older have no readouts for latent moments"
        raise InputError(
            f"les_arguments: {', '.join(on)}: not available where the les package is not "
            f"installed; leave it out{why if set(on) & set(_MOMENTS) else ''}"
        )


def _energy_of(ewald: Ewald) -> LES:
    """Made anew, so that files hold nothing but parameters."""
    n_max = None
    if isinstance(ewald, Ewald_vectorized) and ewald.is_periodic:
        n_max = ewald.N_max
    return LES(
        sigma=ewald.sigma,
        dl=ewald.dl,
        prefactor=ewald.norm_factor,
        remove_self_interaction=ewald.remove_self_interaction,
        n_max=n_max,
    )


_CLASSES = (
    *(Les, _DummyAtomwise, Ewald, Ewald_vectorized, BEC),
    *(Atomwise, FixedCharges, AtomicAlpha),
)


def register() -> bool:
    """Let these classes be imported as ``les``, unless the les package is installed.

    Returns whether they are.
    """
    if "les" in sys.modules:
        return getattr(sys.modules["les"], "Les", None) is Les
    spec = find_spec("les")
    if spec is not None and spec.origin is not None:  # a folder of this name alone is no package
        return False
    for name in ("les", "les.module", *(part.__module__ for part in _CLASSES)):
        module = sys.modules.setdefault(name, ModuleType(name))
        module.__spec__ = ModuleSpec(name, None, is_package=name in ("les", "les.module"))
        module.__path__ = []
    for part in _CLASSES:
        setattr(sys.modules[part.__module__], part.__name__, part)
    sys.modules["les"].Les = Les  # type: ignore[attr-defined]
    return True
