"""A CACE-LES model by the equations of the paper, for verification of what was exported.

Cheng, npj Comput. Mater. 10, 157 (2024). It shares with the reader only where in the file the parts
of the energy are, and nothing with the network; it was compared with the numbers of the original
code, which is not on PyPI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les_export.checkpoints.records import Record
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.cace.conditions import conditions_of
from openmm_les_export.families.cace.potential import read_potential
from openmm_les_export.verification.reference import AutogradReference, envelope, equations


def reference(opened: ModelFile, canonical: CanonicalModel) -> CACEReference:
    """The model of a file, with the isolated-atom energies of its canonical form."""
    energies = canonical.state["reference_energies"].tolist()
    return CACEReference(opened.root, dict(zip(canonical.hyper["elements"], energies, strict=True)))


class CACEReference(AutogradReference):
    """A CACE-LES model in float64, with isolated-atom energies [eV] by atomic number."""

    against = equations("CACE")

    def __init__(self, model: Record, atomic_energies: Mapping[int, float]) -> None:
        potential = read_potential(model)
        self._record = potential.representation
        self._potential, self._les = potential, potential.les.parameters
        self.cutoff = float(self._record.module("cutoff_fn").tensor("cutoff"))
        self.elements = [int(z) for z in self._record.value("zs")]
        self._references = torch.tensor(
            [atomic_energies[z] for z in self.elements], dtype=torch.float64
        )

    def _short_range(
        self, vectors: Tensor, sender: Tensor, receiver: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Atomic energies with references [n] and latent charges [n] or [n, channels]."""
        edges = self._edge_basis(vectors, species[sender], species[receiver])

        def summed(messages: Tensor) -> Tensor:
            empty = torch.zeros(len(species), *messages.shape[1:], dtype=torch.float64)
            return empty.index_add(0, receiver, messages)

        a = self._mix_radial(summed(edges))
        features = [self._symmetrised(a)]
        for layer in self._record.items("message_passing_list"):
            kinds = {record.kind: record for record in layer.modules().values()}
            received = torch.zeros_like(a)
            if "MessageBchi" in kinds:
                weights = self._weights(kinds["MessageBchi"], features[-1])
                received = received + self._mix_radial(summed(edges * weights[sender]))
            if "MessageAr" in kinds:
                decays = self._decays(kinds["MessageAr"], torch.linalg.norm(vectors, dim=1))
                received = received + summed(a[sender] * decays)
            received = received * self._record.number("mp_norm_factor")
            if "NodeMemory" in kinds:
                received = received + a * self._by_monomial(kinds["NodeMemory"], "memory_coef")
            a = received
            features.append(self._symmetrised(a))
        flat = torch.stack(features, -1).flatten(1)
        energies = self._potential.energy_scale * self._head(self._potential.energy, flat)[:, 0]
        charges = self._potential.les.scale * self._head(self._potential.charge, flat)
        return energies + self._references[species], charges.squeeze(1)

    def _head(self, record: Record, features: Tensor) -> Tensor:
        """What a network makes of features and conditions behind them."""
        values = [self._conditions[name] for name in conditions_of(record)]
        columns = torch.tensor(values, dtype=torch.float64).expand(len(features), len(values))
        return _head(record)(torch.cat([features, columns], 1))

    def _weights(self, message: Record, features: Tensor) -> Tensor:
        """What an atom's network weights its contribution to others with, [N, 1, L, C]."""
        weights = _dense(message.items("hnet"))(features.flatten(1))
        degrees = torch.tensor([sum(entry) for entry in self._exponents()])
        if message.value("shared_l", False):
            degrees = torch.zeros_like(degrees)
        weights = weights.view(len(features), int(degrees.max()) + 1, -1)
        return weights[:, degrees].unsqueeze(1)

    def _decays(self, message: Record, r: Tensor) -> Tensor:
        """factor * exp(-rate r) and the envelope, [E, M, L, C]."""
        p = self._record.module("cutoff_fn").scalar("p")
        factors, rates = (self._by_monomial(message, name) for name in ("prefactor", "invr0"))
        r = r.view(-1, 1, 1, 1)
        return factors * torch.exp(-rates * r) * envelope(r / self.cutoff, p)

    def _by_monomial(self, message: Record, name: str) -> Tensor:
        """Coefficients of each degree, for each monomial [M, L, C]."""
        tensors = message.module(name).tensors()
        of_monomials = [tensors[str(sum(e))].to(torch.float64) for e in self._exponents()]
        return torch.stack(of_monomials, 1)

    def _exponents(self) -> list[tuple[int, ...]]:
        entries = self._record.module("angular_basis").value("lxlylz_list")
        return [tuple(map(int, e.split("_") if isinstance(e, str) else e)) for e in entries]

    def _edge_basis(self, vectors: Tensor, senders: Tensor, receivers: Tensor) -> Tensor:
        """Radial function, angular monomial and encoding of both elements, [E, n, L, C]."""
        tensors = {
            name: tensor.to(torch.float64)
            for name, tensor in self._record.state_dict().items()
            if tensor.is_floating_point()
        }
        r = torch.linalg.norm(vectors, dim=1, keepdim=True)
        unit = vectors / (r + 1e-9)  # as the original does
        frequencies = tensors["radial_basis.bessel_weights"].view(1, -1)
        x, p = r / self.cutoff, float(tensors["cutoff_fn.p"])
        radial = tensors["radial_basis.prefactor"] * torch.sin(frequencies * r) / r * envelope(x, p)
        monomials = [
            (unit ** torch.tensor(entry, dtype=torch.float64)).prod(1)
            for entry in self._exponents()
        ]
        angular = torch.stack(monomials, 1)
        one, other = (
            tensors[f"node_embedding_{name}.embedding_weights"][index]
            for name, index in (("sender", senders), ("receiver", receivers))
        )
        encoding = torch.einsum("ea,eb->eab", one, other).flatten(1)
        return torch.einsum("en,el,ec->enlc", radial, angular, encoding)

    def _mix_radial(self, sums: Tensor) -> Tensor:
        """Radial functions of each degree mixed, [N, n, L, C] to [N, M, L, C]."""
        weights = self._record.module("radial_transform.weights")
        degrees = [sum(entry) for entry in self._exponents()]
        mixed = [
            torch.einsum("xnc,nmc->xmc", sums[:, :, i], weights.tensor(str(d)).to(torch.float64))
            for i, d in enumerate(degrees)
        ]
        return torch.stack(mixed, 2)

    def _symmetrised(self, a: Tensor) -> Tensor:
        """Invariants of neighbour sums, [N, M, L, C] to [N, M, S, C]."""
        symmetrizer = self._record.module("symmetrizer")
        b = [a[:, :, 0]]
        for nu in range(2, int(symmetrizer.number("max_nu")) + 1):
            for terms in symmetrizer.value("indice_dict_allnu")[nu].values():
                b.append(sum(c * a[:, :, list(factors)].prod(2) for factors, c in terms))
        return torch.stack(b, 2)


def _head(record: Record) -> Callable[[Tensor], Tensor]:
    """A network beside which there may be a linear map."""
    network = _dense(record.items("outnet"))
    if "linear_nn" not in record.modules():
        return network
    beside = _dense([record.module("linear_nn")])
    return lambda x: network(x) + beside(x)


def _dense(layers: list[Record]) -> Callable[[Tensor], Tensor]:
    """Linear maps with silu between them."""

    def network(x: Tensor) -> Tensor:
        for k, layer in enumerate(layers):
            x = torch.nn.functional.silu(x) if k else x
            tensors = layer.module("linear").state_dict()
            x = x @ tensors["weight"].to(torch.float64).T
            x = x + tensors["bias"].to(torch.float64) if "bias" in tensors else x
        return x

    return network
