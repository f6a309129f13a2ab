"""CHGNet with latent charges: atomic energies and charges, and their pull-back to positions.

Deng et al., Nat. Mach. Intell. 5, 1031 (2023), as MatGL has it, in the algebra of a static
neighbour matrix. Slot (i, k) is the bond that points from a neighbour to atom i. An angle at an
atom is a pair of its inner slots: the bond that comes in by the one, and the bond that goes out by
the other, which is the reverse of a slot and takes up the message.
"""

from typing import Any, List, Mapping, Sequence, Tuple

import torch
from torch import nn

from openmm_les.networks.blocks.dense import Dense, DenseNetwork, strip_prefix
from openmm_les.networks.blocks.gated import Normalization
from openmm_les.networks.chgnet.inner_bonds import AngleBasis, InnerBonds
from openmm_les.networks.chgnet.messages import AngleMessages, BondBasis, BondFactors, PairMessages

State = Mapping[str, torch.Tensor]


class Embedding(nn.Module):
    """A linear map, with or without silu behind it.

    Args:
        weight: shape [in, out].
        activated: whether silu follows.
    """

    def __init__(self, weight: torch.Tensor, activated: bool) -> None:
        super().__init__()
        self.map = Dense(weight)
        self.activated = activated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From [..., in] to [..., out]."""
        y: torch.Tensor = self.map(x)
        return y * torch.sigmoid(y) if self.activated else y

    @torch.jit.export
    def backward(self, grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """From dE/d(output) and the input to dE/d(input)."""
        if self.activated:
            y = self.map(x)
            s = torch.sigmoid(y)
            grad = grad * (s * (1.0 + y * (1.0 - s)))
        result: torch.Tensor = self.map.backward(grad)
        return result


class AtomLayer(nn.Module):
    """New atom features from bonds and neighbours; before that new bond features, if there are any.

    Args:
        state: weights of the layer, names without the ``layers.T.`` prefix.
        sizes: lengths of atom and bond features.
        dtype: of all that is done for pairs.
    """

    def __init__(self, state: State, sizes: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        atoms, bonds = sizes
        updates = [strip_prefix(state, "bond.")] if "bond.value.0.weight" in state else []
        self.bond_updates: Any = nn.ModuleList(
            PairMessages(each, atoms, bonds, False, dtype) for each in updates
        )
        self.messages = PairMessages(strip_prefix(state, "atom."), atoms, bonds, True, dtype)
        self.atom_norm = Normalization(strip_prefix(state, "atom_norm."))
        norm = strip_prefix(state, "bond_norm.")
        self.bond_norm = Normalization({name: tensor.to(dtype) for name, tensor in norm.items()})

    def forward(
        self, atoms: torch.Tensor, bonds: torch.Tensor, pairs: List[torch.Tensor]
    ) -> Tuple[torch.Tensor, torch.Tensor, List[torch.Tensor]]:
        """New features of atoms and bonds, and what `backward` needs.

        Args:
            atoms: features [N, A], float64.
            bonds: features [N, K, B].
            pairs: radial functions [N, K, n], use of slots [N, K, 1], neighbours [N, K], reverse
                slots [N * K].
        """
        updated = bonds
        for update in self.bond_updates:
            updated = updated + update(atoms, bonds, pairs[0], pairs[1], pairs[2])
        summed = atoms + self.messages(atoms, updated, pairs[0], pairs[1], pairs[2])
        saved = [atoms, bonds, updated, summed]
        return self.atom_norm(summed), self.bond_norm(updated), saved

    @torch.jit.export
    def backward(
        self,
        grad_atoms: torch.Tensor,
        grad_bonds: torch.Tensor,
        pairs: List[torch.Tensor],
        saved: List[torch.Tensor],
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From dE/d(new features) to dE/d of (atoms, bonds, radial functions)."""
        basis, used, neighbors, reverse = pairs[0], pairs[1], pairs[2], pairs[3]
        atoms, bonds, updated, summed = saved[0], saved[1], saved[2], saved[3]
        grad_atoms = self.atom_norm.backward(grad_atoms, summed)
        grad_bonds = self.bond_norm.backward(grad_bonds, updated)
        by_atoms, by_bonds, grad_basis = self.messages.backward(
            grad_atoms, atoms, updated, basis, used, neighbors, reverse
        )
        grad_atoms, grad_bonds = grad_atoms + by_atoms, grad_bonds + by_bonds
        for update in self.bond_updates:
            by_atoms, by_bonds, by_basis = update.backward(
                grad_bonds, atoms, bonds, basis, used, neighbors, reverse
            )
            grad_atoms, grad_bonds = grad_atoms + by_atoms, grad_bonds + by_bonds
            grad_basis = grad_basis + by_basis
        return grad_atoms, grad_bonds, grad_basis


class AngleLayer(nn.Module):
    """New features of inner bonds from the angles at their start, then new angle features.

    Args:
        state: weights of the layer, names without the ``layers.T.`` prefix.
        sizes: lengths of atom, bond and angle features.
        dtype: of all that is done for bonds and angles.
    """

    def __init__(self, state: State, sizes: Sequence[int], dtype: torch.dtype) -> None:
        super().__init__()
        own = strip_prefix(state, "line.")
        self.messages = AngleMessages(own, sizes, True, dtype)
        self.factors = BondFactors(own, sizes[1], dtype)
        updates = [strip_prefix(state, "angle.")] if "angle.value.0.weight" in state else []
        self.angle_updates: Any = nn.ModuleList(
            AngleMessages(each, sizes, False, dtype) for each in updates
        )

    def _spread(
        self, inner: torch.Tensor, bonds: torch.Tensor, slots: List[torch.Tensor]
    ) -> torch.Tensor:
        """From inner slots [N, T, B] to all, 0 elsewhere; in the shape of `bonds`."""
        found = inner.flatten(0, 1).index_select(0, slots[3]) * slots[4]
        return found.view(bonds.shape)

    def forward(
        self,
        atoms: torch.Tensor,
        bonds: torch.Tensor,
        angles: torch.Tensor,
        slots: List[torch.Tensor],
    ) -> Tuple[torch.Tensor, torch.Tensor, List[torch.Tensor]]:
        """New features of bonds and angles, and what `backward` needs.

        Args:
            atoms: features [N, A], float64.
            bonds: features [N, K, B].
            angles: features [N, T, T, C].
            slots: of inner bonds: flat slot [N * T], reverse inner slot [N * T], use [N, T, 1],
                inner slot of each slot [N * K] and whether it has one [N * K, 1], use of pairs of
                inner slots [N, T, T, 1], radial functions [N, T, n].
        """
        incoming = bonds.flatten(0, 1).index_select(0, slots[0]).view(slots[2].shape[:2] + (-1,))
        outgoing = incoming.flatten(0, 1).index_select(0, slots[1]).view(incoming.shape)
        factors = self.factors(slots[6])
        update = self.messages(atoms, incoming, outgoing, angles, factors, slots[5])
        update = update.flatten(0, 1).index_select(0, slots[1]).view(incoming.shape)
        saved = [atoms, incoming, outgoing, angles, factors]
        for angle_update in self.angle_updates:
            later = incoming + update
            after = later.flatten(0, 1).index_select(0, slots[1]).view(later.shape)
            saved.append(later)
            saved.append(after)
            angles = angles + angle_update(atoms, later, after, angles, factors, slots[5])
        return bonds + self._spread(update, bonds, slots), angles, saved

    @torch.jit.export
    def backward(
        self,
        grad_bonds: torch.Tensor,
        grad_angles: torch.Tensor,
        slots: List[torch.Tensor],
        saved: List[torch.Tensor],
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """From dE/d(new features) to dE/d of (atoms, bonds, angles, inner radial functions)."""
        atoms, incoming, outgoing, angles, factors = saved[:5]
        grad_atoms = torch.zeros_like(atoms)
        for angle_update in self.angle_updates:
            parts = angle_update.backward(
                grad_angles, atoms, saved[5], saved[6], angles, factors, slots[5]
            )
            grad_atoms = grad_atoms + parts[0]
            grad_bonds = grad_bonds + self._of_bonds(parts, grad_bonds, slots)
            grad_angles = grad_angles + parts[3]
        update = grad_bonds.flatten(0, 1).index_select(0, slots[0]).view(incoming.shape) * slots[2]
        update = update.flatten(0, 1).index_select(0, slots[1]).view(incoming.shape)
        parts = self.messages.backward(update, atoms, incoming, outgoing, angles, factors, slots[5])
        return (
            grad_atoms + parts[0],
            grad_bonds + self._of_bonds(parts, grad_bonds, slots),
            grad_angles + parts[3],
            self.factors.backward(parts[4], slots[6]),
        )

    def _of_bonds(
        self, parts: List[torch.Tensor], bonds: torch.Tensor, slots: List[torch.Tensor]
    ) -> torch.Tensor:
        """dE/d(bond features) from that of incoming and outgoing bonds."""
        outgoing = parts[2].flatten(0, 1).index_select(0, slots[1]).view(parts[2].shape)
        result: torch.Tensor = self._spread(parts[1] + outgoing, bonds, slots)
        return result


class CHGNetNetwork(nn.Module):
    """CHGNet energies and latent charges for inference.

    Atom features are float64 whatever the dtype, as `MACENetwork._cast` explains.

    Args:
        hyper: canonical hyper-parameters of family ``chgnet`` (``docs/design.md``).
        state: canonical weights, float64.
        species: indices of the elements to keep, in the order in which atoms are sorted.
        dtype: dtype of all that is done for pairs and angles.
        **_: options that only other families have.
    """

    def __init__(
        self,
        hyper: Mapping[str, Any],
        state: State,
        species: Sequence[int],
        *,
        dtype: torch.dtype,
        **_: bool,
    ) -> None:
        super().__init__()
        self.cutoff = float(hyper["cutoff"])
        self.inner_cutoff = float(hyper["inner_cutoff"])
        self.energy_offset = float(hyper["energy_offset"])
        order = int(hyper["cutoff_order"])
        self.basis = BondBasis(state["bond_frequencies"].to(dtype), self.cutoff, order)
        inner = state["inner_frequencies"].to(dtype)
        self.inner_basis = BondBasis(inner, self.inner_cutoff, order)
        self.angle_basis = AngleBasis(state["angle_frequencies"], dtype)
        self.inner = InnerBonds(self.inner_cutoff)
        self.bonds = Embedding(state["bonds"].to(dtype), bool(hyper["nonlinear_bonds"]))
        self.angles = Embedding(state["angles"].to(dtype), bool(hyper["nonlinear_angles"]))
        sizes = [state[name].shape[1] for name in ("atoms", "bonds", "angles")]
        number = int(hyper["num_layers"])
        states = [strip_prefix(state, f"layers.{t}.") for t in range(number)]
        layers = [AtomLayer(each, sizes[:2], dtype) for each in states]
        between = [AngleLayer(each, sizes, dtype) for each in states[:-1]]
        self.atom_layers = nn.ModuleList(layers[:-1])
        self.angle_layers = nn.ModuleList(between)
        self.last = layers[-1]
        # TorchScript cannot iterate a ModuleList backwards; these are the same modules.
        self.atom_layers_reversed: Any = nn.ModuleList(layers[-2::-1] if number > 1 else [])
        self.angle_layers_reversed: Any = nn.ModuleList(between[::-1])
        self.energy = DenseNetwork(strip_prefix(state, "energy."))
        self.charge = DenseNetwork(strip_prefix(state, "charge."))
        index = torch.tensor(list(species), dtype=torch.int64)
        self.atoms: torch.Tensor
        self.register_buffer("atoms", state["atoms"].index_select(0, index))

    def reserve(self, slots: int) -> None:
        """Sets the inner slots of an atom, before scripting; 0 stands for as many as needed."""
        self.inner.capacity = slots

    @torch.jit.export
    def short_range(
        self,
        positions: torch.Tensor,
        neighbors: torch.Tensor,
        shifts: torch.Tensor,
        reverse: torch.Tensor,
        species: torch.Tensor,
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor, List[List[torch.Tensor]]]:
        """See `openmm_les.networks.mace.network.MACENetwork.short_range`."""
        n, k = neighbors.shape[0], neighbors.shape[1]
        others = positions.index_select(0, neighbors.view(-1)).view(n, k, 3)
        vectors = positions.unsqueeze(1) - others + shifts
        distances = torch.sqrt((vectors * vectors).sum(2))
        # Unused slots hold a vector twice as long as the cutoff.
        filled = distances < 1.5 * self.cutoff
        basis, slopes = self.basis(distances)
        pairs = [basis, filled.to(basis.dtype).unsqueeze(2), neighbors, reverse]
        slots, most = self._inner_slots(distances, filled, reverse, basis.dtype)
        inner_vectors = vectors.view(-1, 3).index_select(0, slots[0]).view(n, -1, 3)
        inner_distances = torch.sqrt((inner_vectors * inner_vectors).sum(2))
        inner_basis, inner_slopes = self.inner_basis(inner_distances)
        slots.append(inner_basis)
        functions, saved_angles = self.angle_basis(inner_vectors)

        atoms = self.atoms.index_select(0, species)
        bonds, angles = self.bonds(basis), self.angles(functions)
        geometry = [vectors, distances, slopes, inner_vectors, inner_distances, inner_slopes]
        saved = [geometry, saved_angles, pairs, slots, [functions, angles, most]]
        for atom_layer, angle_layer in zip(self.atom_layers, self.angle_layers):  # noqa: B905
            atoms, bonds, saved_layer = atom_layer(atoms, bonds, pairs)
            saved.append(saved_layer)
            bonds, angles, saved_layer = angle_layer(atoms, bonds, angles, slots)
            saved.append(saved_layer)
        atoms, bonds, saved_layer = self.last(atoms, bonds, pairs)
        saved.append(saved_layer)
        energies, saved_energy = self.energy(atoms)
        charges, saved_charge = self.charge(atoms)
        saved.append(saved_energy)
        saved.append(saved_charge)
        # A number that the original adds once for a structure.
        energies = energies.squeeze(1) + self.energy_offset / n
        return energies, charges.squeeze(1), saved

    def _inner_slots(
        self,
        distances: torch.Tensor,
        filled: torch.Tensor,
        reverse: torch.Tensor,
        dtype: torch.dtype,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """Those that `AngleLayer.forward` describes, and the most inner neighbours of an atom."""
        inner = self.inner(distances, filled, reverse)
        used = inner[2]
        pairs = used.unsqueeze(2) & used.unsqueeze(1)
        different = ~torch.eye(used.shape[1], dtype=torch.bool, device=used.device)
        masks = [used.unsqueeze(2), inner[4].unsqueeze(1), (pairs & different).unsqueeze(3)]
        masks = [mask.to(dtype) for mask in masks]
        return [inner[0], inner[1], masks[0], inner[3], masks[1], masks[2]], inner[5]

    @torch.jit.export
    def outgrown(self, saved: List[List[torch.Tensor]]) -> torch.Tensor:
        """Whether an atom has more inner neighbours than there are slots for them, []."""
        slots = self.inner.capacity
        return saved[4][2] > slots if slots > 0 else torch.zeros_like(saved[4][2]) > 0

    @torch.jit.export
    def pull_back(
        self,
        grad_energies: torch.Tensor,
        grad_charges: torch.Tensor,
        saved: List[List[torch.Tensor]],
        counts: List[int],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """See `openmm_les.networks.mace.network.MACENetwork.pull_back`."""
        pairs, slots, functions = saved[2], saved[3], saved[4][0]
        atoms = self.energy.backward(grad_energies.unsqueeze(1), saved[-2])
        atoms = atoms + self.charge.backward(grad_charges.to(torch.float64).unsqueeze(1), saved[-1])
        last = len(saved) - 3
        bonds, angles = torch.zeros_like(saved[last][1]), torch.zeros_like(saved[4][1])
        atoms, bonds, basis = self.last.backward(atoms, bonds, pairs, saved[last])
        inner = torch.zeros_like(slots[6])
        back = last
        layers = zip(self.atom_layers_reversed, self.angle_layers_reversed)  # noqa: B905
        for atom_layer, angle_layer in layers:
            by_atoms, bonds, angles, by_inner = angle_layer.backward(
                bonds, angles, slots, saved[back - 1]
            )
            inner = inner + by_inner
            atoms, bonds, by_basis = atom_layer.backward(
                atoms + by_atoms, bonds, pairs, saved[back - 2]
            )
            basis = basis + by_basis
            back -= 2
        basis = basis + self.bonds.backward(bonds, pairs[0])
        return self._to_positions(basis, inner, self.angles.backward(angles, functions), saved)

    def _to_positions(
        self,
        basis: torch.Tensor,
        inner: torch.Tensor,
        functions: torch.Tensor,
        saved: List[List[torch.Tensor]],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """From dE/d of radial functions, inner ones, and those of angles to positions, strain."""
        vectors, distances, slopes, inner_vectors, inner_distances, inner_slopes = saved[0]
        slots, reverse = saved[3], saved[2][3]
        along = (inner * inner_slopes).sum(2).to(torch.float64) / inner_distances
        by_inner = along.unsqueeze(2) * inner_vectors
        by_inner = by_inner + self.angle_basis.backward(functions, saved[1])
        along = (basis * slopes).sum(2).to(torch.float64) / distances
        grad = (along.unsqueeze(2) * vectors).view(-1, 3)
        grad = grad + by_inner.view(-1, 3).index_select(0, slots[3]) * slots[4]
        pairs = grad - grad.index_select(0, reverse)
        return pairs.view(vectors.shape).sum(1), grad.t() @ vectors.view(-1, 3)
