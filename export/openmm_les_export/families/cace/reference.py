"""A CACE-LES model by the equations of the paper, for verification of what was exported.

Cheng, npj Comput. Mater. 10, 157 (2024). It shares nothing with the reader and the network but the
file's records, and was compared with the numbers of the original code, which is not on PyPI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les_export.checkpoints.records import Record
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.les_parameters import les_parameters
from openmm_les_export.verification.reference import AutogradReference, envelope, equations


def reference(opened: ModelFile, canonical: CanonicalModel) -> CACEReference:
    """The model of a file, with the isolated-atom energies of its canonical form."""
    energies = canonical.state["reference_energies"].tolist()
    return CACEReference(opened.root, dict(zip(canonical.hyper["elements"], energies, strict=True)))


class CACEReference(AutogradReference):
    """A CACE-LES model in float64, with isolated-atom energies [eV] by atomic number."""

    against = equations("CACE")

    def __init__(self, model: Record, atomic_energies: Mapping[int, float]) -> None:
        self._record = model.module("representation")
        outputs = {record.kind: record for record in model.items("output_modules")}
        total = outputs["FeatureAdd"].value("feature_keys")
        (energy,) = (
            record
            for record in model.items("output_modules")
            if record.kind == "Atomwise" and record.value("output_key") in total
        )
        les = outputs["LesWrapper"].module("les")
        self._energy, self._charge = energy, les.module("atomwise")
        self._les = les_parameters(les)
        self.cutoff = float(self._record.module("cutoff_fn").tensor("cutoff"))
        self.elements = [int(z) for z in self._record.value("zs")]
        self._references = torch.tensor(
            [atomic_energies[z] for z in self.elements], dtype=torch.float64
        )

    def _short_range(
        self, vectors: Tensor, sender: Tensor, receiver: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Atomic energies with references and latent charges, each of shape [n]."""
        edges = self._edge_basis(vectors, species[sender], species[receiver])

        def summed(messages: Tensor) -> Tensor:
            empty = torch.zeros(len(species), *messages.shape[1:], dtype=torch.float64)
            return self._mix_radial(empty.index_add(0, receiver, messages))

        features = [self._symmetrised(summed(edges))]
        degrees = torch.tensor([sum(entry) for entry in self._exponents()])
        for layer in self._record.items("message_passing_list"):
            (message,) = layer.modules().values()
            weights = _dense(message.items("hnet"))(features[-1].flatten(1))
            weights = weights.view(len(species), int(degrees.max()) + 1, -1)
            carried = edges * weights[sender][:, degrees].unsqueeze(1)
            norm = self._record.number("mp_norm_factor")
            features.append(self._symmetrised(summed(carried) * norm))
        flat = torch.stack(features, -1).flatten(1)
        energies = _head(self._energy)(flat) + self._references[species]
        return energies, self._charge.number("output_scaling_factor") * _head(self._charge)(flat)

    def _exponents(self) -> list[tuple[int, ...]]:
        return [tuple(e) for e in self._record.module("angular_basis").value("lxlylz_list")]

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
    """The network of one number for each atom."""
    network = _dense(record.items("outnet"))
    if "linear_nn" not in record.modules():
        return lambda x: network(x)[:, 0]
    beside = _dense([record.module("linear_nn")])
    return lambda x: (network(x) + beside(x))[:, 0]


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
