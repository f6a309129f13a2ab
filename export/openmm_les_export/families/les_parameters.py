"""The les package's objects in a model file: what is accepted in them, and the parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from openmm_les.errors import UnsupportedModelError
from openmm_les_export.checkpoints.accepted import OFF, Block, any_value, off
from openmm_les_export.checkpoints.accepted import Options as Accepted
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.records import Record, invalid, is_off, unsupported

#: Where parameters of a file came from, as artifacts state it.
MODEL_FILE = "model file"

#: Switches of LES beyond charges, in the les package and in what calls it, and what they bring.
MULTIPOLES = {
    **dict.fromkeys(("use_dipole", "use_dipoles"), "latent dipoles"),
    **dict.fromkeys(("use_quad", "use_quads", "use_quadrupole"), "latent quadrupoles"),
    **dict.fromkeys(("use_induced_charge", "use_induced_charges"), "induced charges"),
    **dict.fromkeys(("use_induced_dipole", "use_induced_dipoles"), "induced dipoles"),
    "use_atomic_alpha": "atomic polarizabilities",
    "use_fixed_atomic_charges": "fixed atomic charges",
}
#: Options of the les package: read elsewhere, idle without one of those above, or without effect,
#: as the last one is.
LES_OPTIONS: Accepted = {
    **dict.fromkeys(MULTIPOLES, OFF),
    **any_value(
        "n_layers n_hidden add_linear_nn output_scaling_factor sigma dl norm_factor "
        "remove_self_interaction remove_mean epsilon_factor fixed_atomic_charges_scaling_factor "
        "is_periodic N_max kappa_alpha_positive kappa_scale alpha_scale alpha_irreps "
        "use_anisotropic_polarizability use_epsilon_r_scaling"
    ),
}
_EWALD = Block(
    any_value(
        "sigma dl norm_factor remove_self_interaction sigma_sq_half k_sq_max twopi twopi_sq "
        "use_epsilon_r_scaling"
    )
)
#: For all families. ``use_atomwise`` and what is in ``Atomwise`` each has to settle by itself.
LES_BLOCKS: dict[str, Block] = {
    "les.les.Les": Block(
        LES_OPTIONS,
        modules={
            "atomwise": ("Atomwise",),
            "ewald": ("Ewald", "Ewald_vectorized"),
            "bec": ("BEC",),
            "fixed_charges": ("FixedCharges",),
            "atomic_alpha": ("AtomicAlpha",),
        },
    ),
    "les.module.ewald.Ewald": _EWALD,
    "les.module.ewald_vectorized.Ewald_vectorized": Block(
        {**_EWALD.options, **any_value("is_periodic N_max")},
        tensors=("nvec_all", "hemisphere_mask", "factors"),
    ),
    "les.module.bec.BEC": Block(any_value("remove_mean epsilon_factor normalization_factor")),
    "les.module.atomwise.Atomwise": Block(
        {
            **any_value(
                "n_in n_out n_hidden n_layers activation add_linear_nn bias output_scaling_factor"
            ),
            **off("outnet"),
        }
    ),
    # Tables by element, idle without the switches above.
    "les.module.fixedcharges.FixedCharges": Block(any_value("charge_dict normalization_factor")),
    "les.module.atomicalpha.AtomicAlpha": Block(any_value("alpha_dict normalization_factor")),
}


def refuse_multipoles(model: Record) -> None:
    """Refuses a model with more than charges, and says what all of it is."""
    found: dict[str, str] = {}
    for record in model.walk():
        for name, what in MULTIPOLES.items():
            if not is_off(record.state.get(name)):
                found.setdefault(what, record.path_of(name))
    if found:
        listed = ", ".join(f"{what} ({path})" for what, path in found.items())
        raise UnsupportedModelError(
            f"model: LES with {listed}; this version of openmm-les has the electrostatics of "
            "latent charges alone: train without it"
        )


def les_parameters(les: Record) -> dict[str, float | bool]:
    """LES parameters as the model was trained with; nothing is assumed where the file is silent."""
    ewald, bec = les.module("ewald"), les.module("bec")
    sigma, dl = ewald.number("sigma"), ewald.number("dl")
    epsilon = bec.number("epsilon_factor")
    truncated = truncation(ewald.attributes(), f"{ewald.path}.")
    _check_vectors(ewald, int(truncated.get("n_max", 0)))
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
        **truncated,
    }


def _check_vectors(ewald: Record, n_max: int) -> None:
    """Whether the vectors that a file keeps are those of its `n_max`."""
    vectors, count = ewald.tensors().get("nvec_all"), (2 * n_max + 1) ** 3
    if not n_max or vectors is None:
        return
    where, expected = ewald.path_of("nvec_all"), f"the {count} vectors up to N_max {n_max}"
    if tuple(vectors.shape) != (count, 3):
        raise unsupported(where, expected, f"shape {tuple(vectors.shape)}")
    # All different, whole and small enough: then they are these.
    whole = bool((vectors == vectors.round()).all()) and int(vectors.abs().max()) <= n_max
    if not whole or len(set(map(tuple, vectors.tolist()))) != count:
        raise unsupported(where, expected, "others")


def truncation(values: Mapping[str, Any], prefix: str) -> dict[str, float | bool]:
    """``is_periodic`` and ``n_max`` of a reciprocal sum within a fixed range of integers.

    Nothing where ``is_periodic`` is None: the les package then sums all vectors up to the cutoff.
    The prefix comes before names in messages.
    """
    if values.get("is_periodic") is None:
        return {}
    options = Options(values, prefix)
    if not options.flag("is_periodic"):
        return {"is_periodic": False}
    return {"is_periodic": True, "n_max": options.integer("N_max", 10, 1, 1000)}


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
