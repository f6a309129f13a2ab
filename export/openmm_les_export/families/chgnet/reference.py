"""A CHGNet-LES model by its equations, for verification of what was exported.

Deng et al., Nat. Mach. Intell. 5, 1031 (2023), with MatGL's line graph. It shares nothing with the
reader and the network but the opened file, and was compared with the original code's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les_export.atomic_energies import atomic_number
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.chgnet.accepted import ARGUMENTS, STATE
from openmm_les_export.verification.reference import AutogradReference, envelope, equations

silu = torch.nn.functional.silu


class CHGNetReference(AutogradReference):
    """A CHGNet-LES model in float64, with the LES parameters of its canonical form."""

    against = equations("CHGNet")

    def __init__(self, saved: ModelFile, canonical: CanonicalModel) -> None:
        self._tensors = {name: tensor.to(torch.float64) for name, tensor in saved[STATE].items()}
        self._options: Mapping[str, Any] = saved[ARGUMENTS]["model"]["init_args"]
        self._les = canonical.les
        self.cutoff = float(self._options["cutoff"])
        symbols = self._options["element_types"]
        known = range(1, 95) if symbols is None else map(atomic_number, symbols)
        self.elements = list(known)

    def _short_range(
        self, vectors: Tensor, source: Tensor, target: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energy with references [] and latent charges [n]."""
        options, tensors = self._options, self._tensors
        distances = torch.linalg.norm(vectors, dim=1)
        basis = self._basis("bond_expansion", distances, self.cutoff)
        inner = float(options["threebody_cutoff"])
        (near,) = torch.nonzero(distances <= inner, as_tuple=True)
        inner_basis = self._basis("threebody_bond_expansion", distances, inner)
        first, second = _angles(near, vectors.detach(), source, target)
        cosine = torch.nn.functional.cosine_similarity(-vectors[first], vectors[second])
        angle = torch.acos(cosine.clamp(-1 + 1e-7, 1 - 1e-7))
        phases = torch.outer(angle, tensors["model.angle_expansion.frequencies"])
        functions = torch.zeros(len(first), 2 * phases.shape[1] - 1, dtype=torch.float64)
        functions[:, ::2], functions[:, 1::2] = torch.cos(phases), torch.sin(phases[:, 1:])

        atoms = tensors["model.atom_embedding.weight"][species]
        bonds = self._linear("bond_embedding.layers.0", basis)
        angles = self._linear("angle_embedding.layers.0", functions / math.pi)
        bonds = silu(bonds) if options["non_linear_bond_embedding"] else bonds
        angles = silu(angles) if options["non_linear_angle_embedding"] else angles
        for t in range(int(options["num_blocks"])):
            block = f"atom_graph_layers.{t}"
            conv = f"{block}.conv_layer"
            if options["bond_update_hidden_dims"] is not None:
                inputs = torch.cat([atoms[source], bonds, atoms[target]], 1)
                factor = self._factor("bond_bond_weights", f"{conv}.edge_weight_func", basis)
                bonds = bonds + self._gated(f"{conv}.edge_update_func", inputs) * factor
            inputs = torch.cat([atoms[source], bonds, atoms[target]], 1)
            factor = self._factor("atom_bond_weights", f"{conv}.node_weight_func", basis)
            messages = self._gated(f"{conv}.node_update_func", inputs) * factor
            sums = torch.zeros_like(atoms).index_add(0, target, messages)
            atoms = atoms + self._linear(f"{conv}.node_out_func", sums)
            atoms = self._normalized(f"{block}.atom_norm", atoms)
            bonds = self._normalized(f"{block}.bond_norm", bonds)
            if t == int(options["num_blocks"]) - 1:
                break
            conv = f"bond_graph_layers.{t}.conv_layer"
            centre = atoms[target[first]]
            factor = self._factor(
                "threebody_bond_weights", f"{conv}.node_weight_func", inner_basis
            ).expand(len(bonds), -1)
            inputs = torch.cat([bonds[first], angles, centre, bonds[second]], 1)
            messages = self._gated(f"{conv}.node_update_func", inputs)
            messages = messages * factor[first] * factor[second]
            sums = torch.zeros_like(bonds).index_add(0, second, messages)
            bonds = bonds + self._linear(f"{conv}.node_out_func", sums)
            if options["angle_update_hidden_dims"] is not None:
                inputs = torch.cat([bonds[first], angles, centre, bonds[second]], 1)
                angles = angles + self._gated(f"{conv}.edge_update_func", inputs)
        energy = tensors["data_std"] * self._dense("final_layer", atoms).sum()
        energy = energy + tensors["data_mean"]
        if "element_refs.property_offset" in tensors:
            energy = energy + tensors["element_refs.property_offset"][species].sum()
        return energy, self._dense("latent_charge_readout", atoms)[:, 0]

    def _basis(self, name: str, r: Tensor, cutoff: float) -> Tensor:
        frequencies = self._tensors[f"model.{name}.frequencies"]
        values = math.sqrt(2 / cutoff) * torch.sin(torch.outer(r / cutoff, frequencies))
        values = values / r.unsqueeze(1)
        x, p = values / cutoff, int(self._options["cutoff_exponent"])
        return values * torch.where(values <= cutoff, envelope(x, p), 0.0)

    def _factor(self, shared: str, own: str, basis: Tensor) -> Tensor:
        """Product of the factors that there are, [E, width] or [1, 1]."""
        product: Tensor = torch.ones(1, 1, dtype=torch.float64)
        for name in (shared, own):
            if f"model.{name}.weight" in self._tensors:
                product = product * self._linear(name, basis)
        return product

    def _gated(self, name: str, x: Tensor) -> Tensor:
        value = self._dense(f"{name}.layers", x)
        return silu(value) * torch.sigmoid(self._dense(f"{name}.gates", x))

    def _dense(self, name: str, x: Tensor) -> Tensor:
        """Linear maps with silu between them, and normalisation where the file has one."""
        prefix = f"model.{name}.layers."
        own = (key.removeprefix(prefix) for key in self._tensors if key.startswith(prefix))
        depth = len({key.split(".")[0] for key in own})
        hidden = bool(self._options["normalize_hidden"])
        for k in range(depth):
            x = self._linear(f"{name}.layers.{k}", x)
            if hidden or k == depth - 1:
                x = self._normalized(f"{name}.norm_layers.{k if hidden else 0}", x)
            x = silu(x) if k < depth - 1 else x
        return x

    def _linear(self, name: str, x: Tensor) -> Tensor:
        y: Tensor = x @ self._tensors[f"model.{name}.weight"].T
        bias = self._tensors.get(f"model.{name}.bias")
        return y if bias is None else y + bias

    def _normalized(self, name: str, x: Tensor) -> Tensor:
        if f"model.{name}.weight" not in self._tensors:
            return x
        weight, bias = (self._tensors[f"model.{name}.{part}"] for part in ("weight", "bias"))
        return torch.nn.functional.layer_norm(x, x.shape[1:], weight, bias)


def _angles(near: Tensor, vectors: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of a bond to an atom and one from there to an atom other than the first, [A]."""
    first, second = torch.meshgrid(near, near, indexing="ij")
    meet = target[first] == source[second]
    # There and back again: the two vectors cancel.
    back = (vectors[first] + vectors[second]).abs().amax(2) < 1e-6
    chosen = meet & ~(back & (source[first] == target[second]))
    return first[chosen], second[chosen]
