"""CACE's representation: from positions to features (Cheng, npj Comput. Mater. 10, 157 (2024))."""

from __future__ import annotations

import math
from typing import Any

import torch

from openmm_les.errors import ModelFileError
from openmm_les.networks.cace.family import complete
from openmm_les_export.checkpoints.records import Record, describe, invalid, unsupported
from openmm_les_export.families.cace.networks import expect
from openmm_les_export.families.canonical_form import State, cutoff_order

#: Of exponents in angular monomials.
_HIGHEST = 11


def read_radial_basis(representation: Record, state: State) -> dict[str, Any]:
    """Bessel functions and their cutoff."""
    basis, envelope = (representation.module(name) for name in ("radial_basis", "cutoff_fn"))
    cutoff = envelope.scalar("cutoff")
    searched = representation.number("cutoff")
    if not math.isclose(cutoff, searched, rel_tol=1e-6):
        raise invalid("cutoff", "one cutoff", f"{cutoff} and {searched}")
    state["bessel_frequencies"] = basis.tensor("bessel_weights").to(torch.float64).flatten()
    return {
        "cutoff": cutoff,
        "num_bessel": state["bessel_frequencies"].numel(),
        "bessel_prefactor": basis.scalar("prefactor"),
        "cutoff_order": cutoff_order(envelope),
    }


def read_polynomials(representation: Record) -> dict[str, Any]:
    """Angular monomials, and the invariants made of them (eq. 8 of the paper)."""
    angular, symmetrizer = (
        representation.module(name) for name in ("angular_basis", "symmetrizer")
    )
    monomials = [_exponents(entry) for entry in angular.value("lxlylz_list")]
    where, got = f"{angular.path}.lxlylz_list", describe(monomials)
    if not all(0 <= e <= _HIGHEST for entry in monomials for e in entry):
        raise unsupported(where, f"exponents of 0 to {_HIGHEST}", got)
    if not complete([(x, y, z) for x, y, z in monomials]):
        raise invalid(where, "all monomials of each degree", got)
    return {
        "monomials": monomials,
        "invariants": [[[[0], 1.0]], *_invariants(symmetrizer, len(monomials))],
    }


def _exponents(entry: Any) -> list[int]:
    """Of a monomial, as a tuple or in a text such as ``"1_0_0"``."""
    return [int(e) for e in (entry.split("_") if isinstance(entry, str) else entry)]


def _invariants(symmetrizer: Record, size: int) -> list[list[list[Any]]]:
    """Terms of all invariants of order 2 and above: indices of monomials, and a factor."""
    found = []
    try:
        for nu in range(2, int(symmetrizer.number("max_nu")) + 1):
            for terms in symmetrizer.value("indice_dict_allnu")[nu].values():
                own = [([int(i) for i in factors], float(c)) for factors, c in terms]
                if not all(len(f) == nu and 0 <= min(f) <= max(f) < size for f, _ in own):
                    raise ValueError(f"expected products of {nu} of {size} monomials")
                found.append([[factors, c] for factors, c in own])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"model: {symmetrizer.path}.indice_dict_allnu: expected the terms of every invariant, "
            f"got something else ({type(error).__name__}: {error})"
        ) from error
    return found


def read_channels(
    representation: Record, state: State, elements: list[int], hyper: dict[str, Any]
) -> tuple[int, int]:
    """Embeddings and radial transform; returns the numbers of channels and radial functions."""
    index = representation.module("node_onehot").tensor("index_map")
    if not all(z < len(index) and int(index[z]) == i for i, z in enumerate(elements)):
        raise ModelFileError(f"model: node_onehot.index_map: expected the order of zs, {elements}")
    for name in ("sender", "receiver"):
        weights = representation.module(f"node_embedding_{name}").tensor("embedding_weights")
        state[name] = weights.to(torch.float64)
    widths = {name: state[name].shape[-1] for name in ("sender", "receiver")}
    for name, width in widths.items():
        expect(state[name], (len(elements), width), f"node_embedding_{name}")
    channels = widths["sender"] * widths["receiver"]
    transforms = representation.module("radial_transform.weights").tensors()
    degrees = max(sum(entry) for entry in hyper["monomials"]) + 1
    if list(transforms) != [str(d) for d in range(degrees)]:
        raise invalid("radial_transform.weights", f"those of {degrees} degrees", list(transforms))
    functions = transforms["0"].shape[1]
    for degree, weight in transforms.items():
        shape = (hyper["num_bessel"], functions, channels)
        expect(weight, shape, f"radial_transform.weights.{degree}")
        state[f"radial.{degree}"] = weight.to(torch.float64).permute(2, 0, 1)
    return channels, functions
