"""The les package's objects in a model file: what is accepted in them, and the parameters."""

from __future__ import annotations

import math

from openmm_les.errors import UnsupportedModelError
from openmm_les_export.checkpoints.accepted import Block, Options, any_value
from openmm_les_export.checkpoints.records import Record, invalid

#: Where parameters of a file came from, as artifacts state it.
MODEL_FILE = "model file"

#: Switches of LES beyond charges, in the les package and in what calls it, and what they bring.
MULTIPOLES = {
    **dict.fromkeys(("use_dipole", "use_dipoles"), "latent dipoles"),
    **dict.fromkeys(("use_quad", "use_quads", "use_quadrupole"), "latent quadrupoles"),
    **dict.fromkeys(("use_induced_charge", "use_induced_charges"), "induced charges"),
    **dict.fromkeys(("use_induced_dipole", "use_induced_dipoles"), "induced dipoles"),
    "use_anisotropic_polarizability": "anisotropic polarisabilities",
    "use_atomic_alpha": "atomic polarisabilities",
    "use_fixed_atomic_charges": "fixed atomic charges",
    "use_epsilon_r_scaling": "scaling by a dielectric constant",
}

#: Options of the les package that are read elsewhere, or idle without one of those above.
LES_OPTIONS: Options = any_value(
    "n_layers n_hidden add_linear_nn output_scaling_factor sigma dl norm_factor "
    "remove_self_interaction remove_mean epsilon_factor fixed_atomic_charges_scaling_factor"
)
#: For all families. ``use_atomwise`` and what is in ``Atomwise`` each has to settle by itself.
LES_BLOCKS: dict[str, Block] = {
    "les.les.Les": Block(
        LES_OPTIONS, modules={"atomwise": ("Atomwise",), "ewald": ("Ewald",), "bec": ("BEC",)}
    ),
    "les.module.ewald.Ewald": Block(
        any_value(
            "sigma dl norm_factor remove_self_interaction sigma_sq_half k_sq_max twopi twopi_sq"
        )
    ),
    "les.module.bec.BEC": Block(any_value("remove_mean epsilon_factor normalization_factor")),
    "les.module.atomwise.Atomwise": Block(
        any_value(
            "n_in n_out n_hidden n_layers activation add_linear_nn bias output_scaling_factor"
        )
    ),
}


def refuse_multipoles(model: Record) -> None:
    """Refuses LES with more than charges, and says what all of it is."""
    found = [
        f"{what} ({record.path}.{name})" if record.path else f"{what} ({name})"
        for record in model.walk()
        for name, what in MULTIPOLES.items()
        if record.state.get(name) is True
    ]
    if found:
        raise UnsupportedModelError(
            f"model: LES with {', '.join(found)}; openmm-les has the electrostatics of latent "
            "charges alone, train without it"
        )


def les_parameters(les: Record) -> dict[str, float | bool]:
    """LES parameters as the model was trained with; nothing is assumed where the file is silent."""
    ewald, bec = les.module("ewald"), les.module("bec")
    sigma, dl = ewald.number("sigma"), ewald.number("dl")
    epsilon = bec.number("epsilon_factor")
    check_derived(ewald, "sigma_sq_half", sigma**2 / 2)
    check_derived(ewald, "k_sq_max", (2 * math.pi / dl) ** 2)
    check_derived(bec, "normalization_factor", math.sqrt(epsilon))
    return {
        "sigma": sigma,
        "dl": dl,
        "prefactor": ewald.number("norm_factor"),
        "remove_self_interaction": les_flag(ewald, "remove_self_interaction"),
        "bec_remove_mean": les_flag(bec, "remove_mean"),
        "bec_epsilon_factor": epsilon,
    }


def check_derived(record: Record, name: str, expected: float) -> None:
    """Refuses an attribute that is another than follows from the parameters."""
    if not math.isclose(record.number(name), expected, rel_tol=1e-9):
        raise UnsupportedModelError(
            f"model: {record.path}.{name}: expected {expected} from the other parameters, got "
            f"{record.number(name)}"
        )


def les_flag(record: Record, name: str) -> bool:
    """An attribute that is True or False."""
    value = record.value(name)
    if not isinstance(value, bool):
        raise invalid(f"{record.path}.{name}", "True or False", f"{value!r}")
    return value
