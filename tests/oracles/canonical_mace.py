"""MACE straight from the canonical tensors, as ``docs/reference/formats/mace.md`` writes it down.

No speed, no folding, autograd for the forces: what the run-time network must agree with. Uses
e3nn's spherical harmonics and Wigner 3j symbols, which the canonical form refers to.
"""

from __future__ import annotations

import math
import warnings
from itertools import combinations_with_replacement

import numpy as np
import torch
from matscipy.neighbours import neighbour_list

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mace.modules  # noqa: F401 - lets e3nn 0.4.4 load its constants
    from e3nn import o3

from openmm_les.artifact.canonical import CanonicalModel


def short_range(
    model: CanonicalModel,
    positions: np.ndarray,
    numbers: np.ndarray,
    cell: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Atomic energies with references [n], latent charges [n], and the positions they depend on."""
    hyper, state = model.hyper, model.state
    n = len(positions)
    species = torch.tensor([hyper["elements"].index(int(z)) for z in numbers])
    open_cell = np.eye(3) * (np.ptp(positions, axis=0).max() + 3 * hyper["cutoff"])
    receiver, sender, shift = neighbour_list(
        "ijS",
        pbc=(cell is not None,) * 3,
        cell=open_cell if cell is None else cell,
        positions=positions,
        cutoff=hyper["cutoff"],
    )
    receiver, sender = torch.tensor(receiver).long(), torch.tensor(sender).long()
    shift = torch.tensor(shift @ (open_cell if cell is None else cell), dtype=torch.float64)
    r = torch.tensor(positions, dtype=torch.float64, requires_grad=True)
    vectors = r[receiver] - r[sender] - shift
    distances = torch.linalg.norm(vectors, dim=1)
    pairs = species[receiver], species[sender]
    basis = _radial_basis(hyper, state, distances, pairs)
    lmax = hyper["lmax"]
    harmonics = o3.spherical_harmonics(list(range(lmax + 1)), vectors, True, "component")
    edges = [harmonics[:, degree**2 : (degree + 1) ** 2] for degree in range(lmax + 1)]

    nodes = [state["embedding"][species].unsqueeze(1)]  # per degree [n, 2l+1, C]
    energies = state["reference_energies"][species] + hyper["energy_shift"]
    if "zbl" in hyper:
        repulsion = _zbl(hyper, state["zbl.radii"], distances, pairs)
        energies = energies.index_add(0, receiver, repulsion)
    charges = torch.zeros(n, dtype=torch.float64)
    for t, layer in enumerate(hyper["layers"]):
        w = {
            k.removeprefix(f"layers.{t}."): v
            for k, v in state.items()
            if k.startswith(f"layers.{t}.")
        }
        sums = _neighbor_sums(layer, w, nodes, edges, basis, receiver, sender, n, lmax)
        if "density" in w:
            density = torch.tanh((basis @ w["density"]) ** 2)[:, 0]
            sums = (
                sums / (1 + torch.zeros(n).double().index_add(0, receiver, density))[:, None, None]
            )
        if "selector.0" in w:
            degrees = [sums[:, :, degree**2 : (degree + 1) ** 2] for degree in range(lmax + 1)]
            maps = [w[f"selector.{degree}"][species] for degree in range(lmax + 1)]
            mixed = [torch.einsum("ncm,ncd->ndm", a, b) for a, b in zip(degrees, maps, strict=True)]
            sums = torch.cat(mixed, 2)
        updated = []
        for degree in range(layer["output_lmax"] + 1):
            product = _product(w, degree, sums, species)
            output = product @ w[f"output.{degree}"]
            if f"skip.{degree}" in w:
                output = output + nodes[degree] @ w[f"skip.{degree}"][species]
            updated.append(output)
        nodes = updated
        energies = energies + _readout(w, "energy", nodes[0][:, 0])
        charges = charges + _readout(w, "charge", nodes[0][:, 0])
    return energies, charges, r


def _envelope(x: torch.Tensor, p: int) -> torch.Tensor:
    envelope = (
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )
    return torch.where(x < 1, envelope, 0.0)


def _radial_basis(hyper, state, distances: torch.Tensor, pairs) -> torch.Tensor:
    envelope = _envelope(distances / hyper["cutoff"], hyper["cutoff_order"])
    if "distance_transform" in hyper:
        radii = state["transform.radii"]
        distances = _transform(
            **hyper["distance_transform"], r=distances, radii=radii[pairs[0]] + radii[pairs[1]]
        )
    sines = torch.sin(distances[:, None] * state["bessel_frequencies"])
    return hyper["bessel_prefactor"] * sines * (envelope / distances)[:, None]


def _transform(kind, r, radii, **parameters) -> torch.Tensor:
    if kind == "agnesi":
        u, a, q, p = 2 * r / radii, *(parameters[name] for name in "aqp")
        return 1 / (1 + a * u**q / (1 + u ** (q - p)))
    low, high = 3 / 4 * radii, 4 / 3 * radii
    step = 1 + torch.tanh(parameters["alpha"] * (r - (low + high) / 2) / (high - low))
    return low + (r - low) * step / 2


def _zbl(hyper, radii, r: torch.Tensor, pairs) -> torch.Tensor:
    zbl, z = hyper["zbl"], torch.tensor(hyper["elements"], dtype=torch.float64)
    first, second = (z[index] for index in pairs)
    length = zbl["length"] / (first ** zbl["power"] + second ** zbl["power"])
    screening = sum(
        c * torch.exp(-b * r / length)
        for c, b in zip(zbl["coefficients"], zbl["exponents"], strict=True)
    )
    envelope = _envelope(r / (radii[pairs[0]] + radii[pairs[1]]), zbl["cutoff_order"])
    return zbl["energy"] * first * second / r * screening * envelope


def _neighbor_sums(layer, w, nodes, edges, basis, receiver, sender, n, lmax) -> torch.Tensor:
    """A of shape [n, C, (lmax + 1)^2]."""
    features = basis
    depth = sum(name.startswith("radial.") for name in w)
    for k in range(depth):
        features = features @ w[f"radial.{k}"]
        if k < depth - 1:
            features = torch.nn.functional.silu(features)
    raised = [node @ w[f"up.{degree}"] for degree, node in enumerate(nodes)]
    assert len(raised) == layer["node_lmax"] + 1
    channels = raised[0].shape[2]
    features = features.view(-1, len(layer["paths"]), channels)
    messages: list[list[torch.Tensor]] = [[] for _ in range(lmax + 1)]
    for p, (l1, l2, l3) in enumerate(layer["paths"]):
        w3j = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
        pair = torch.einsum("abm,eac,eb->emc", w3j, raised[l1][sender], edges[l2])
        pair = pair * features[:, p, None]
        zeros = torch.zeros(n, 2 * l3 + 1, channels, dtype=torch.float64)
        messages[l3].append(zeros.index_add(0, receiver, pair))
    mixed = [torch.cat(parts, 2) @ w[f"mix.{degree}"] for degree, parts in enumerate(messages)]
    return torch.cat(mixed, 1).transpose(1, 2)


def _product(w, degree: int, sums: torch.Tensor, species: torch.Tensor) -> torch.Tensor:
    """Polynomials of one degree, [n, 2l+1, C]."""
    extended = torch.cat([torch.ones_like(sums[:, :, :1]), sums], 2)
    size, count = extended.shape[2], w[f"product.{degree}.basis"].shape[2]
    order = next(nu for nu in (3, 4) if math.comb(size + nu - 1, nu) == count)
    factors = torch.tensor(list(combinations_with_replacement(range(size), order)))
    monomials = extended[:, :, factors].prod(3)
    couplings = torch.einsum("rmk,nck->nmrc", w[f"product.{degree}.basis"], monomials)
    return torch.einsum("nmrc,nrc->nmc", couplings, w[f"product.{degree}.weights"][species])


def _readout(w, name: str, scalars: torch.Tensor) -> torch.Tensor:
    out = scalars @ w[f"{name}.0"]
    if f"{name}.1" in w:
        out = torch.nn.functional.silu(out) @ w[f"{name}.1"]
    return out[:, 0]
