"""CACE-LES: hyper-parameters, tensors, and where its code is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, model_validator

from openmm_les.networks.conditions import Conditions
from openmm_les.networks.parameters import Bessel, Degree, Few, Index, Real, Tensors
from openmm_les.networks.registry import Family


def complete(monomials: list[tuple[int, int, int]]) -> bool:
    """Whether these are all monomials of each degree, each once, lower ones first."""
    degrees = [sum(entry) for entry in monomials]
    expected = [(d + 1) * (d + 2) // 2 for d in range(max(degrees, default=0) + 1)]
    counts = [degrees.count(d) for d in range(len(expected))]
    repeated = len(set(monomials)) != len(monomials)
    return degrees == sorted(degrees) and counts == expected and not repeated


class CACE(Bessel):
    """Family ``cace``."""

    monomials: Annotated[list[tuple[Degree, Degree, Degree]], Field(min_length=1, max_length=364)]
    invariants: list[list[tuple[Annotated[list[Index], Field(max_length=8)], Real]]]
    num_messages: Few
    #: Whether the network of messages makes one number for all degrees and channels.
    shared_messages: StrictBool = False
    conditions: Conditions = Field(default=[])
    charge_channels: Annotated[int, Field(strict=True, ge=1, le=100)] = 1

    @model_validator(mode="after")
    def _check_terms(self) -> CACE:
        if any(each.per == "atom" or each.classes for each in self.conditions):
            raise ValueError("expected conditions of the system that are numbers")
        if not complete(self.monomials):
            raise ValueError("expected all monomials of each degree, lower ones first")
        size = len(self.monomials)
        if sum(len(terms) for terms in self.invariants) > 30_000:
            raise ValueError("expected at most 30000 products in all invariants")
        if not self.invariants or not all(
            terms and all(factors and max(factors) < size for factors, _ in terms)
            for terms in self.invariants
        ):
            raise ValueError(f"expected invariants made of the {size} monomials")
        return self


def _cace(hyper: CACE, tensors: Tensors) -> None:
    z, degrees = len(hyper.elements), sum(hyper.monomials[-1]) + 1
    senders, receivers = (tensors.take(name, z, None)[1] for name in ("sender", "receiver"))
    channels, functions = senders * receivers, None
    for d in range(degrees):
        functions = tensors.take(f"radial.{d}", channels, hyper.num_bessel, functions)[2]
    features = channels * len(hyper.invariants) * (functions or 0)
    for t in range(hyper.num_messages):
        _messages(tensors, t, hyper.shared_messages, features, (degrees, channels, functions or 0))
    inputs = (hyper.num_messages + 1) * features + len(hyper.conditions)
    _dense(tensors, "energy", inputs, 1)
    _dense(tensors, "charge", inputs, hyper.charge_channels)


def _messages(
    tensors: Tensors, t: int, shared: bool, features: int, sizes: tuple[int, int, int]
) -> None:
    """What a layer after the first may have, one kind at least."""
    degrees, channels, functions = sizes
    kinds = {
        "message": f"message.{t}.0.weight" in tensors,
        "memory": f"memory.{t}.0" in tensors,
        "decay": f"decay.{t}.0.rate" in tensors,
    }
    if kinds["message"] or not any(kinds.values()):
        _dense(tensors, f"message.{t}", features, 1 if shared else degrees * channels)
    for d in range(degrees):
        if kinds["memory"]:
            tensors.take(f"memory.{t}.{d}", channels, functions)
        for part in ("factor", "rate"):
            if kinds["decay"]:
                tensors.take(f"decay.{t}.{d}.{part}", channels, functions)


def _dense(tensors: Tensors, prefix: str, inputs: int, outputs: int) -> None:
    """A network, with one linear map beside it or not."""
    tensors.network(prefix, inputs, outputs, ".weight")
    if tensors.perhaps(f"{prefix}.linear.weight", inputs, outputs):
        tensors.perhaps(f"{prefix}.linear.bias", outputs)


FAMILIES = (
    Family(
        name="cace",
        title="CACE-LES",
        parameters=CACE,
        take_tensors=_cace,
        network="openmm_les.networks.cace.network:CACENetwork",
        reader="openmm_les_export.families.cace.reader:read",
        accepted="openmm_les_export.families.cace.accepted:ACCEPTED",
        reference="openmm_les_export.families.cace.reference:reference",
        options=("atomic_energies",),
        citation="Cheng, npj Comput. Mater. 10, 157 (2024)",
    ),
)
