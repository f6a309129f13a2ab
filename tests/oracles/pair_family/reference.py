"""The equations of Pair-LES, evaluated a second time from the file."""

from __future__ import annotations

import torch
from openmm_les_export.atomic_energies import atomic_number
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.verification.reference import AutogradReference, equations

from openmm_les.artifact.canonical import CanonicalModel


class PairReference(AutogradReference):
    """A Pair-LES model in float64."""

    against = equations("pair potentials")

    def __init__(self, opened: ModelFile, canonical: CanonicalModel) -> None:
        self.cutoff = opened["pair"]["cutoff"]
        self.elements = [atomic_number(symbol) for symbol in opened["pair"]["symbols"]]
        self._weights = {name: t.double() for name, t in opened["weights"].items()}
        self._les = canonical.les

    def _short_range(self, vectors, sender, receiver, species):
        values = (1 - torch.linalg.norm(vectors, dim=1) / self.cutoff) ** 3
        pairs = species[receiver], species[sender]
        energy = (self._weights["energies"][pairs] * values).sum() / 2
        energy = energy + self._weights["atoms"][species].sum()
        charges = torch.zeros(len(species), dtype=torch.float64)
        return energy, charges.index_add(0, receiver, self._weights["charges"][pairs] * values)
