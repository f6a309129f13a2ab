"""Pair-LES: hyper-parameters, tensors, and where its code is."""

from __future__ import annotations

from openmm_les.networks.parameters import Hyper, Tensors
from openmm_les.networks.registry import Family


class Pair(Hyper):
    """Elements and cutoff say all."""


def _tensors(hyper: Pair, tensors: Tensors) -> None:
    for name in ("energies", "charges"):
        tensors.take(name, len(hyper.elements), len(hyper.elements))


FAMILIES = (
    Family(
        name="pair",
        title="Pair-LES",
        parameters=Pair,
        take_tensors=_tensors,
        network="pair_family.network:PairNetwork",
        accepted="pair_family.reader:ACCEPTED",
        reader="pair_family.reader:read",
        reference="pair_family.reference:PairReference",
        options=("norm_factor", "self_interaction", "calibrate"),
    ),
)
