"""MACE with latent moments, made of its charges and of one vector for each atom.

The vector is ``v_i = sum_j w_j (1 - r^2 / cutoff^2)^3 r_ij``, with a weight of each species. With
other factors of each species, q is a multiple of the charge c of MACE, kappa of 1 + c^2, u of v, Q
of ``v v^T`` without its trace, and alpha of ``1 + v v^T`` or of a third of its trace.
"""

import copy
import dataclasses
from typing import Any, List, NamedTuple, Tuple

import torch
from pydantic import model_validator
from torch import Tensor

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.electrostatics.multipoles import LatentLayout
from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.geometry import pair_vectors, pull_back_vectors
from openmm_les.networks.mace.family import FAMILIES, MACE
from openmm_les.networks.mace.network import MACENetwork, MACETape
from openmm_les.networks.moments import Moments, layout_of
from openmm_les.networks.protocol import NetworkModule

MACE_FAMILY = FAMILIES[0]
#: Typical values of w, q, u, Q, kappa and alpha over what they are multiples of.
SIZES = (0.5, 1.0, 0.1, 0.1, 0.01, 0.03)


class MomentsTape(NamedTuple):
    """What `MomentsNetwork.pull_back` needs."""

    inner: MACETape
    factors: Tensor
    charges: Tensor
    vectors: Tensor
    pairs: Tensor
    weights: Tensor
    reverse: Tensor


class MomentsNetwork(NetworkModule):
    """See `openmm_les.networks.protocol.Network`."""

    layout: LatentLayout  # TorchScript would take it for a plain tuple

    def __init__(self, hyper, state, species, form) -> None:
        super().__init__()
        state = dict(state)
        factors = state.pop("moment_factors")[:, list(species)]
        charges_alone = {name: value for name, value in hyper.items() if name != "moments"}
        self.inner: Any = MACENetwork(charges_alone, state, species, form)
        self.cutoff: float = self.inner.cutoff
        layout = layout_of(hyper)
        self.layout = LatentLayout(*((0,) * 6)) if layout is None else layout
        self.rows = self.layout.rows
        self.factors = torch.nn.Buffer(factors)

    @torch.jit.export
    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, MomentsTape]:
        energies, charges, inner = self.inner.short_range(positions, neighbors, species, counts)
        charges = charges.to(torch.float64)
        n = species.shape[0]
        factors = self.factors.index_select(1, species)
        pairs = pair_vectors(positions, neighbors, torch.float64)
        weights = factors[0].index_select(0, neighbors.indices.view(-1)).unsqueeze(1)
        terms = weights * self.window(pairs) ** 3 * pairs
        v = terms.view(n, -1, 3).sum(1)
        rows = [(factors[1] * charges).unsqueeze(0)]
        layout = self.layout
        squares = (v.unsqueeze(2) * v.unsqueeze(1)).flatten(1)
        identity = torch.eye(3, dtype=v.dtype, device=v.device).flatten()
        if layout.dipoles >= 0:
            rows.append((factors[2].unsqueeze(1) * v).t())
        if layout.quadrupoles >= 0:
            traceless = squares - (squares @ identity / 3.0).unsqueeze(1) * identity
            rows.append((factors[3].unsqueeze(1) * traceless).t())
        if layout.kappa >= 0:
            rows.append((factors[4] * (1.0 + charges * charges)).unsqueeze(0))
        if layout.alpha_rows == 1:
            rows.append((factors[5] * (1.0 + squares @ identity / 3.0)).unsqueeze(0))
        if layout.alpha_rows == 9:
            rows.append((factors[5].unsqueeze(1) * (identity + squares)).t())
        tape = MomentsTape(inner, factors, charges, v, pairs, weights, neighbors.reverse)
        return energies, torch.cat(rows), tape

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: MomentsTape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        grad = grad_charges.to(torch.float64)
        layout, factors, v = self.layout, tape.factors.unsqueeze(2), tape.vectors
        n = v.shape[0]
        by_charges = factors[1, :, 0] * grad[0]
        by_vectors = torch.zeros_like(v)
        if layout.dipoles >= 0:
            by_vectors = by_vectors + factors[2] * grad[layout.dipoles : layout.dipoles + 3].t()
        if layout.quadrupoles >= 0:
            tensors = grad[layout.quadrupoles : layout.quadrupoles + 9].t().reshape(n, 3, 3)
            trace = tensors.diagonal(0, 1, 2).sum(1).view(n, 1)
            by_vectors = by_vectors + factors[3] * (along(tensors, v) - 2.0 / 3.0 * trace * v)
        if layout.kappa >= 0:
            slopes = 2.0 * factors[4, :, 0] * tape.charges
            by_charges = by_charges + slopes * grad[layout.kappa]
        if layout.alpha_rows == 1:
            slopes = 2.0 / 3.0 * factors[5] * v
            by_vectors = by_vectors + slopes * grad[layout.alpha].unsqueeze(1)
        if layout.alpha_rows == 9:
            tensors = grad[layout.alpha : layout.alpha + 9].t().reshape(n, 3, 3)
            by_vectors = by_vectors + factors[5] * along(tensors, v)
        forces, strain = self.inner.pull_back(grad_energies, by_charges, tape.inner, counts)
        pairs, window = tape.pairs, self.window(tape.pairs)
        by_sums = by_vectors.repeat_interleave(pairs.shape[0] // n, 0)
        inward = -6.0 / self.cutoff**2 * window**2 * (pairs * by_sums).sum(1, keepdim=True)
        by_pairs = tape.weights * (window**3 * by_sums + inward * pairs)
        more_forces, more_strain = pull_back_vectors(by_pairs, pairs, tape.reverse, n)
        return forces + more_forces, strain + more_strain

    def window(self, pairs: Tensor) -> Tensor:
        """1 - r^2 / cutoff^2 within the cutoff, shape [pairs, 1]."""
        squared = (pairs * pairs).sum(1, keepdim=True)
        return (1.0 - squared / self.cutoff**2).clamp(min=0.0)


def along(tensors: Tensor, vectors: Tensor) -> Tensor:
    """Tensors and their transposes times vectors, shape [n, 3]."""
    return torch.bmm(tensors + tensors.transpose(1, 2), vectors.unsqueeze(2)).squeeze(2)


class MomentsMACE(MACE):
    moments: Moments | None = None

    @model_validator(mode="after")
    def _check_moments(self):
        """Not those of MACE."""
        return self


def _take_tensors(hyper, tensors) -> None:
    tensors.take("moment_factors", len(SIZES), len(hyper.elements))
    MACE_FAMILY.take_tensors(hyper.model_copy(update={"moments": None}), tensors)


FAMILY = dataclasses.replace(
    MACE_FAMILY,
    name="moments",
    parameters=MomentsMACE,
    take_tensors=_take_tensors,
    network=f"{__name__}:MomentsNetwork",
)


def model_with_moments(moments, **les) -> CanonicalModel:
    """The demonstration model with moments, and other parameters of its electrostatics."""
    canonical = artifacts.load(catalog.artifact_path("les-demo")).canonical
    sizes = torch.tensor(SIZES, dtype=torch.float64).unsqueeze(1)
    generator = torch.Generator().manual_seed(4)
    shape = len(SIZES), len(canonical.hyper["elements"])
    factors = sizes * (0.5 + torch.rand(*shape, generator=generator, dtype=torch.float64))
    return CanonicalModel(
        "moments",
        {**copy.deepcopy(dict(canonical.hyper)), "moments": dict(moments)},
        {**canonical.state, "moment_factors": factors},
        {**canonical.les, **les},
        canonical.source,
    )
