"""The layers of CHGNet: new features of atoms and bonds, then of bonds and angles."""

from typing import Any, List, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.networks.blocks.gated import Normalization
from openmm_les.networks.blocks.weights import State, strip_prefix
from openmm_les.networks.chgnet.messages import (
    AngleGradients,
    AngleMessages,
    BondFactors,
    PairMessages,
    Pairs,
)


class Angles(NamedTuple):
    """What layers know of the inner slots and of the pairs of them; see `InnerSlots`."""

    slots: Tensor  #: flat slot of each inner slot [N * T].
    reverse: Tensor  #: inner slot that holds the same pair seen from the neighbour [N * T].
    places: Tensor  #: flat inner slot of each slot [N * K].
    inside: Tensor  #: 1 where a slot has an inner one, else 0, [N * K, 1].
    used: Tensor  #: 1 where an inner slot holds a neighbour, else 0, [N, T, 1].
    pairs: Tensor  #: 1 where there is an angle, else 0, [N, T, T, 1].
    basis: Tensor  #: radial functions [N, T, n].


class AtomLayerTape(NamedTuple):
    """Inputs of `AtomLayer`, and features before the normalisation: of bonds, of atoms."""

    atoms: Tensor
    bonds: Tensor
    updated: Tensor
    summed: Tensor


class AngleUpdateTape(NamedTuple):
    """Features of the inner bonds that come in and go out, [N, T, B]."""

    incoming: Tensor
    outgoing: Tensor


class AngleLayerTape(NamedTuple):
    """What `AngleLayer.backward` needs: of the bonds before and after the update of the bonds."""

    atoms: Tensor
    angles: Tensor
    factors: Tensor
    bonds: AngleUpdateTape
    updates: List[AngleUpdateTape]


class AtomLayer(nn.Module):
    """New atom features from bonds and neighbours; before that new bond features, if there are any.

    `sizes` are the lengths of atom and bond features; what is done for pairs has the dtype.
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
        self, atoms: Tensor, bonds: Tensor, pairs: Pairs
    ) -> Tuple[Tensor, Tensor, AtomLayerTape]:
        """New features of atoms [N, A], float64, and bonds [N, K, B]."""
        updated = bonds
        for update in self.bond_updates:
            updated = updated + update(atoms, bonds, pairs)
        summed = atoms + self.messages(atoms, updated, pairs)
        tape = AtomLayerTape(atoms, bonds, updated, summed)
        return self.atom_norm(summed), self.bond_norm(updated), tape

    @torch.jit.export
    def backward(
        self, grad_atoms: Tensor, grad_bonds: Tensor, pairs: Pairs, tape: AtomLayerTape
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """From dE/d(new features) to dE/d of (atoms, bonds, radial functions)."""
        grad_atoms = self.atom_norm.backward(grad_atoms, tape.summed)
        grad_bonds = self.bond_norm.backward(grad_bonds, tape.updated)
        by_atoms, by_bonds, grad_basis = self.messages.backward(
            grad_atoms, tape.atoms, tape.updated, pairs
        )
        grad_atoms, grad_bonds = grad_atoms + by_atoms, grad_bonds + by_bonds
        for update in self.bond_updates:
            by_atoms, by_bonds, by_basis = update.backward(
                grad_bonds, tape.atoms, tape.bonds, pairs
            )
            grad_atoms, grad_bonds = grad_atoms + by_atoms, grad_bonds + by_bonds
            grad_basis = grad_basis + by_basis
        return grad_atoms, grad_bonds, grad_basis


class AngleLayer(nn.Module):
    """New features of inner bonds from the angles at their start, then new angle features.

    `sizes` are the lengths of atom, bond and angle features; all but atoms have the dtype.
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

    def _spread(self, inner: Tensor, bonds: Tensor, slots: Angles) -> Tensor:
        """From inner slots [N, T, B] to all, 0 elsewhere; in the shape of `bonds`."""
        found = inner.flatten(0, 1).index_select(0, slots.places) * slots.inside
        return found.view(bonds.shape)

    def _reversed(self, inner: Tensor, slots: Angles) -> Tensor:
        """What the reverse of each inner slot holds, [N, T, B]."""
        return inner.flatten(0, 1).index_select(0, slots.reverse).view(inner.shape)

    def forward(
        self, atoms: Tensor, bonds: Tensor, angles: Tensor, slots: Angles
    ) -> Tuple[Tensor, Tensor, AngleLayerTape]:
        """New features of bonds [N, K, B] and angles [N, T, T, C]."""
        incoming = (
            bonds.flatten(0, 1).index_select(0, slots.slots).view(slots.used.shape[:2] + (-1,))
        )
        outgoing = self._reversed(incoming, slots)
        factors = self.factors(slots.basis)
        update = self.messages(atoms, incoming, outgoing, angles, factors, slots.pairs)
        update = self._reversed(update, slots)
        updates: List[AngleUpdateTape] = []
        before = angles
        for angle_update in self.angle_updates:
            later = incoming + update
            after = self._reversed(later, slots)
            updates.append(AngleUpdateTape(later, after))
            angles = angles + angle_update(atoms, later, after, angles, factors, slots.pairs)
        tape = AngleLayerTape(atoms, before, factors, AngleUpdateTape(incoming, outgoing), updates)
        return bonds + self._spread(update, bonds, slots), angles, tape

    @torch.jit.export
    def backward(
        self, grad_bonds: Tensor, grad_angles: Tensor, slots: Angles, tape: AngleLayerTape
    ) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """From dE/d(new features) to dE/d of (atoms, bonds, angles, inner radial functions)."""
        grad_atoms = torch.zeros_like(tape.atoms)
        for t, angle_update in enumerate(self.angle_updates):
            later = tape.updates[t]
            grads = angle_update.backward(
                grad_angles,
                tape.atoms,
                later.incoming,
                later.outgoing,
                tape.angles,
                tape.factors,
                slots.pairs,
            )
            grad_atoms = grad_atoms + grads.atoms
            grad_bonds = grad_bonds + self._of_bonds(grads, grad_bonds, slots)
            grad_angles = grad_angles + grads.angles
        incoming = tape.bonds.incoming
        update = grad_bonds.flatten(0, 1).index_select(0, slots.slots).view(incoming.shape)
        update = self._reversed(update * slots.used, slots)
        grads = self.messages.backward(
            update,
            tape.atoms,
            incoming,
            tape.bonds.outgoing,
            tape.angles,
            tape.factors,
            slots.pairs,
        )
        return (
            grad_atoms + grads.atoms,
            grad_bonds + self._of_bonds(grads, grad_bonds, slots),
            grad_angles + grads.angles,
            self.factors.backward(grads.factors, slots.basis),
        )

    def _of_bonds(self, grads: AngleGradients, bonds: Tensor, slots: Angles) -> Tensor:
        """dE/d(bond features) from that of incoming and outgoing bonds."""
        inner = grads.incoming + self._reversed(grads.outgoing, slots)
        result: Tensor = self._spread(inner, bonds, slots)
        return result
