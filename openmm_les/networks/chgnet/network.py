"""CHGNet with latent charges: atomic energies and charges, and their pull-back to positions.

Deng et al., Nat. Mach. Intell. 5, 1031 (2023), as MatGL has it, in the algebra of a static
neighbour matrix. Slot (i, k) is the bond that points from a neighbour to atom i. An angle at an
atom is a pair of its inner slots: the bond that comes in by the one, and the bond that goes out by
the other, which is the reverse of a slot and takes up the message.
"""

from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from openmm_les.neighbors.matrix import Neighbors
from openmm_les.networks.blocks.dense import Dense, EnergyAndCharge, HeadsTape
from openmm_les.networks.blocks.geometry import pull_back_vectors
from openmm_les.networks.blocks.weights import State, strip_prefix
from openmm_les.networks.chgnet.inner_bonds import AngleBasis, AngleTape, InnerBonds
from openmm_les.networks.chgnet.layers import (
    AngleLayer,
    AngleLayerTape,
    Angles,
    AtomLayer,
    AtomLayerTape,
)
from openmm_les.networks.chgnet.messages import BondBasis, Pairs
from openmm_les.networks.form import Form
from openmm_les.networks.protocol import NetworkModule


class GeometryTape(NamedTuple):
    """Vectors, distances, and slopes of the radial functions, of all slots and of inner slots."""

    vectors: Tensor
    distances: Tensor
    slopes: Tensor
    inner_vectors: Tensor
    inner_distances: Tensor
    inner_slopes: Tensor
    angles: AngleTape


class CHGNetTape(NamedTuple):
    """What `CHGNetNetwork.pull_back` needs.

    Functions of the angles are [N, T, T, 2 F + 1], their first features [N, T, T, C]; `most` is the
    largest number of inner neighbours [].
    """

    geometry: GeometryTape
    pairs: Pairs
    slots: Angles
    functions: Tensor
    angles: Tensor
    atom_layers: List[AtomLayerTape]
    angle_layers: List[AngleLayerTape]
    heads: HeadsTape
    most: Tensor


class Embedding(nn.Module):
    """A linear map, with or without silu behind it."""

    def __init__(self, weight: Tensor, activated: bool) -> None:
        super().__init__()
        self.map = Dense(weight)
        self.activated = activated

    def forward(self, x: Tensor) -> Tensor:
        """From [..., in] to [..., out]."""
        y: Tensor = self.map(x)
        return y * torch.sigmoid(y) if self.activated else y

    @torch.jit.export
    def backward(self, grad: Tensor, x: Tensor) -> Tensor:
        """From dE/d(output) and the input to dE/d(input)."""
        if self.activated:
            y = self.map(x)
            s = torch.sigmoid(y)
            grad = grad * (s * (1.0 + y * (1.0 - s)))
        result: Tensor = self.map.backward(grad)
        return result


class CHGNetNetwork(NetworkModule):
    """CHGNet energies and latent charges for inference.

    Atom features are float64 whatever the dtype, as `cast` in `blocks.weights` explains.
    """

    def __init__(
        self,
        hyper: Mapping[str, Any],
        state: State,
        species: Sequence[int],
        form: Form,
    ) -> None:
        super().__init__()
        dtype = form.dtype
        self.cutoff = float(hyper["cutoff"])
        inner_cutoff = float(hyper["inner_cutoff"])
        self.energy_offset = float(hyper["energy_offset"])
        order = int(hyper["cutoff_order"])
        self.basis = BondBasis(state["bond_frequencies"].to(dtype), self.cutoff, order)
        inner = state["inner_frequencies"].to(dtype)
        self.inner_basis = BondBasis(inner, inner_cutoff, order)
        self.angle_basis = AngleBasis(state["angle_frequencies"], dtype)
        self.inner = InnerBonds(inner_cutoff)
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
        self.atom_layers_reversed: Any = nn.ModuleList(layers[-2::-1] if number > 1 else [])
        self.angle_layers_reversed: Any = nn.ModuleList(between[::-1])
        self.heads = EnergyAndCharge(state)
        index = torch.tensor(list(species), dtype=torch.int64)
        self.atoms = nn.Buffer(state["atoms"].index_select(0, index))

    def reserve(self, slots: int) -> None:
        """See `Network.reserve`."""
        self.inner.capacity = slots

    @torch.jit.export
    def outgrown(self, tape: CHGNetTape) -> Optional[Tensor]:
        """See `Network.outgrown`."""
        slots = self.inner.capacity
        return tape.most > slots if slots > 0 else None

    @torch.jit.export
    def short_range(
        self, positions: Tensor, neighbors: Neighbors, species: Tensor, counts: List[int]
    ) -> Tuple[Tensor, Tensor, CHGNetTape]:
        """See `Network.short_range`."""
        n = positions.shape[0]
        geometry, pairs, slots, functions, most = self._geometry(positions, neighbors)
        atoms = self.atoms.index_select(0, species)
        bonds, angles = self.bonds(pairs.basis), self.angles(functions)
        first_angles = angles
        atom_layers: List[AtomLayerTape] = []
        angle_layers: List[AngleLayerTape] = []
        for atom_layer, angle_layer in zip(self.atom_layers, self.angle_layers):  # noqa: B905
            atoms, bonds, atom_tape = atom_layer(atoms, bonds, pairs)
            atom_layers.append(atom_tape)
            bonds, angles, angle_tape = angle_layer(atoms, bonds, angles, slots)
            angle_layers.append(angle_tape)
        atoms, bonds, atom_tape = self.last(atoms, bonds, pairs)
        atom_layers.append(atom_tape)
        energies, charges, heads = self.heads(atoms)
        tape = CHGNetTape(
            geometry, pairs, slots, functions, first_angles, atom_layers, angle_layers, heads, most
        )
        # A number that the original adds once for a structure.
        return energies + self.energy_offset / n, charges, tape

    def _geometry(
        self, positions: Tensor, neighbors: Neighbors
    ) -> Tuple[GeometryTape, Pairs, Angles, Tensor, Tensor]:
        """Functions of slots, of inner slots, of angles, and the most inner neighbours."""
        shape = neighbors.shifts.shape
        others = positions.index_select(0, neighbors.indices.view(-1)).view(shape)
        vectors = positions.unsqueeze(1) - others + neighbors.shifts
        distances = torch.sqrt((vectors * vectors).sum(2))
        # Unused slots hold a vector twice as long as the cutoff.
        filled = distances < 1.5 * self.cutoff
        basis, slopes = self.basis(distances)
        dtype = basis.dtype
        pairs = Pairs(basis, filled.to(dtype).unsqueeze(2), neighbors.indices, neighbors.reverse)
        inner = self.inner(distances, filled, neighbors.reverse)
        inner_vectors = vectors.view(-1, 3).index_select(0, inner.slots).view(shape[0], -1, 3)
        inner_distances = torch.sqrt((inner_vectors * inner_vectors).sum(2))
        inner_basis, inner_slopes = self.inner_basis(inner_distances)
        functions, angles = self.angle_basis(inner_vectors)
        used = inner.used
        different = ~torch.eye(used.shape[1], dtype=torch.bool, device=used.device)
        both = used.unsqueeze(2) & used.unsqueeze(1) & different
        slots = Angles(
            inner.slots,
            inner.reverse,
            inner.places,
            inner.inside.unsqueeze(1).to(dtype),
            used.unsqueeze(2).to(dtype),
            both.unsqueeze(3).to(dtype),
            inner_basis,
        )
        geometry = GeometryTape(
            vectors, distances, slopes, inner_vectors, inner_distances, inner_slopes, angles
        )
        return geometry, pairs, slots, functions, inner.most

    @torch.jit.export
    def pull_back(
        self, grad_energies: Tensor, grad_charges: Tensor, tape: CHGNetTape, counts: List[int]
    ) -> Tuple[Tensor, Tensor]:
        """See `Network.pull_back`."""
        pairs, slots = tape.pairs, tape.slots
        atoms = self.heads.backward(grad_energies, grad_charges, tape.heads)
        atom_layers, angle_layers = tape.atom_layers[::-1], tape.angle_layers[::-1]
        bonds, angles = torch.zeros_like(atom_layers[0].bonds), torch.zeros_like(tape.angles)
        atoms, bonds, basis = self.last.backward(atoms, bonds, pairs, atom_layers[0])
        inner = torch.zeros_like(slots.basis)
        layers = zip(self.atom_layers_reversed, self.angle_layers_reversed)  # noqa: B905
        for t, (atom_layer, angle_layer) in enumerate(layers):
            by_atoms, bonds, angles, by_inner = angle_layer.backward(
                bonds, angles, slots, angle_layers[t]
            )
            inner = inner + by_inner
            atoms, bonds, by_basis = atom_layer.backward(
                atoms + by_atoms, bonds, pairs, atom_layers[t + 1]
            )
            basis = basis + by_basis
        basis = basis + self.bonds.backward(bonds, pairs.basis)
        return self._to_positions(basis, inner, self.angles.backward(angles, tape.functions), tape)

    def _to_positions(
        self, basis: Tensor, inner: Tensor, functions: Tensor, tape: CHGNetTape
    ) -> Tuple[Tensor, Tensor]:
        """From dE/d of radial functions, inner ones, and those of angles to positions, strain."""
        geometry, slots = tape.geometry, tape.slots
        vectors = geometry.vectors
        along = (inner * geometry.inner_slopes).sum(2).to(torch.float64)
        by_inner = (along / geometry.inner_distances).unsqueeze(2) * geometry.inner_vectors
        by_inner = by_inner + self.angle_basis.backward(functions, geometry.angles)
        along = (basis * geometry.slopes).sum(2).to(torch.float64) / geometry.distances
        grad = (along.unsqueeze(2) * vectors).view(-1, 3)
        grad = grad + by_inner.view(-1, 3).index_select(0, slots.places) * slots.inside
        return pull_back_vectors(grad, vectors.view(-1, 3), tape.pairs.reverse, vectors.shape[0])
