"""Reads CACE-LES models: a ``.pth`` file becomes a `CanonicalModel`.

No more than torch is needed. The form is that of ``docs/reference/formats/cace.md``, the formulas
are those of Cheng, npj Comput. Mater. 10, 157 (2024).
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les_export.atomic_energies import reference_energies
from openmm_les_export.checkpoints.configuration import check_elements
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.cace.accepted import ACCEPTED
from openmm_les_export.families.cace.conditions import read_conditions, spread, with_conditions
from openmm_les_export.families.cace.messages import read_messages
from openmm_les_export.families.cace.networks import feature_order, read_network
from openmm_les_export.families.cace.potential import read_potential
from openmm_les_export.families.cace.representation import (
    read_channels,
    read_polynomials,
    read_radial_basis,
)
from openmm_les_export.families.canonical_form import State, canonical_form
from openmm_les_export.families.les_parameters import refuse_multipoles
from openmm_les_export.options import ModelOptions

logger = logging.getLogger(__name__)

#: Where the isolated-atom energies come from, as artifacts state it.
GIVEN = "--atomic-energies"


def read(opened: ModelFile, options: ModelOptions) -> CanonicalModel:
    """The canonical form of a CACE-LES model, see `canonical_model`."""
    model = opened.root
    refuse_multipoles(model)
    ACCEPTED.check(model)
    potential = read_potential(model)
    for weight in potential.unused_weights:
        logger.warning(
            "the weight %g of a potential is not applied: the file is older than the option, and "
            "its training ignored it",
            weight,
        )
    representation = potential.representation
    elements = check_elements("zs", representation.value("zs"))
    energies = reference_energies(options.atomic_energies, elements, opened.family.title)
    state: State = {"reference_energies": torch.tensor(energies, dtype=torch.float64)}
    hyper: dict[str, Any] = {
        "elements": elements,
        **read_radial_basis(representation, state),
        **read_polynomials(representation),
    }
    channels, functions = read_channels(representation, state, elements, hyper)
    sizes = (channels, len(hyper["invariants"]), functions)
    read_messages(representation, state, hyper, sizes)
    order = feature_order(hyper["num_messages"] + 1, *sizes)
    les = potential.les
    conditions = read_conditions([potential.energy, potential.charge])
    for name, record, scale, outputs in (
        ("energy", potential.energy, potential.energy_scale, 1),
        ("charge", potential.charge, les.scale, les.channels),
    ):
        read_network(record, state, name, with_conditions(order, record), scale, outputs)
        spread(state, name, record, [each["name"] for each in conditions])
    if conditions:
        hyper["conditions"] = conditions
    if les.channels > 1:
        hyper["charge_channels"] = les.channels
    return canonical_form(
        opened,
        hyper=hyper,
        state=state,
        les=les.parameters,
        vintage="CACE",
        dtype=representation.module("node_embedding_sender").tensor("embedding_weights").dtype,
        references=GIVEN,
        origins=les.origins,
        charge_sign=les.charge_sign,
    )
