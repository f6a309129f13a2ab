"""MACE with several charges for each atom: multiples of the one it has, by species."""

import copy
import dataclasses
from pathlib import Path
from typing import Any, List, Tuple

import torch
from pydantic import Field
from torch import Tensor

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.mace.family import FAMILIES, MACE
from openmm_les.networks.mace.network import MACENetwork, MACETape
from openmm_les.networks.protocol import NetworkModule

CHANNELS = 3
MACE_FAMILY = FAMILIES[0]


class SeveralCharges(NetworkModule):
    """See `openmm_les.networks.protocol.Network`."""

    def __init__(self, hyper, state, species, form) -> None:
        super().__init__()
        state = dict(state)
        factors = state.pop("charge_factors")[:, list(species)]
        inner = {name: value for name, value in hyper.items() if name != "charge_channels"}
        self.inner: Any = MACENetwork(inner, state, species, form)
        self.cutoff: float = self.inner.cutoff
        self.rows = len(factors)
        self.factors = torch.nn.Buffer(factors)

    def of_atoms(self, counts: List[int]) -> Tensor:
        """Factors of all atoms, shape [channels, n]."""
        parts = [self.factors[:, i : i + 1].expand(-1, number) for i, number in enumerate(counts)]
        return torch.cat(parts, 1)

    @torch.jit.export
    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, MACETape]:
        energies, charges, tape = self.inner.short_range(positions, neighbors, species, counts)
        return energies, self.of_atoms(counts) * charges, tape

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: MACETape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        grad = (self.of_atoms(counts) * grad_charges).sum(0)
        return self.inner.pull_back(grad_energies, grad, tape, counts)


class SeveralMACE(MACE):
    charge_channels: int = Field(1, ge=1, le=9)


def _take_tensors(hyper, tensors) -> None:
    tensors.take("charge_factors", hyper.charge_channels, len(hyper.elements))
    MACE_FAMILY.take_tensors(hyper, tensors)


FAMILY = dataclasses.replace(
    MACE_FAMILY,
    name="several",
    parameters=SeveralMACE,
    take_tensors=_take_tensors,
    network=f"{__name__}:SeveralCharges",
)


def save(path: Path) -> Path:
    """An artifact of the demonstration model with `CHANNELS` charges for each atom."""
    canonical = artifacts.load(catalog.artifact_path("les-demo")).canonical
    z = len(canonical.hyper["elements"])
    generator = torch.Generator().manual_seed(4)
    factors = torch.randn(CHANNELS, z, generator=generator, dtype=torch.float64)
    several = CanonicalModel(
        "several",
        {**copy.deepcopy(canonical.hyper), "charge_channels": CHANNELS},
        {**canonical.state, "charge_factors": factors},
        canonical.les,
        canonical.source,
    )
    return artifacts.save(several, path, dtype="float64", charge_sign=1)
