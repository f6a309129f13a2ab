"""From particles to what a model of an ML region sees, and from its forces back to particles.

This is the one home of the order of positions and forces in ML/MM,

    ML atoms | link atoms | MM charges | bond charges

for mechanical embedding (the first two) and electrostatic embedding (all four).
"""

import copy
from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from openmm_les.arrays import FloatArray
from openmm_les.evaluation.conclusion import Results
from openmm_les.plugin.mixed.boundary_charges import BondCharge
from openmm_les.plugin.mixed.links import Link


class Arrangement(NamedTuple):
    """Positions of one structure, float64.

    Attributes:
        positions: ML atoms, link atoms, MM charges, bond charges, shape [n, 3] [A].
        directions: unit vectors from the ML to the MM atom of each link, shape [links, 3].
        ratios: distance of each link atom over the length of its bond, shape [links].
    """

    positions: torch.Tensor
    directions: torch.Tensor
    ratios: torch.Tensor


class RegionGeometry(nn.Module):
    r"""Arranges the positions of an ML region and its surroundings.

    A link atom is on the bond from the ML atom L to the MM atom M, at a fixed distance d from L:
    :math:`R = r_L + d e` with :math:`e = (r_M - r_L) / r`. A force F on it is divided as
    :math:`F_M = (d / r) (F - (F \cdot e) e)` and :math:`F_L = F - F_M`. A bond charge is at
    :math:`(1 - f) r_1 + f r_2`, and its force is divided with these weights.

    All shapes are static, nothing waits for the device, and no sum depends on the order of threads.
    """

    atoms: torch.Tensor
    hosts: torch.Tensor
    distances: torch.Tensor
    charged: torch.Tensor
    fractions: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor
    ancestors: torch.Tensor
    molecules: torch.Tensor
    sizes: torch.Tensor
    sources: torch.Tensor
    targets: torch.Tensor
    slots: torch.Tensor

    def __init__(
        self,
        num_particles: int,
        atoms: Sequence[int],
        links: Sequence[Link] = (),
        *,
        periodic: bool,
        charged: Sequence[int] = (),
        bond_charges: Sequence[BondCharge] = (),
        bonds: Sequence[Tuple[int, int]] | None = None,
    ) -> None:
        """Set up the indices.

        Args:
            num_particles: particles of the force.
            atoms: the ML atoms among them.
            links: cut bonds, by particles.
            periodic: whether nearest images are taken.
            charged: particles with an MM charge.
            bond_charges: charges between or beside particles.
            bonds: pairs of places in `atoms`. The region is then made one piece: every molecule
                whole, with its centre nearest to that of the first one.
        """
        super().__init__()
        places = {atom: i for i, atom in enumerate(atoms)}
        self.num_particles = num_particles
        self.num_atoms, self.num_links = len(atoms), len(links)
        self.num_charged, self.num_bond_charges = len(charged), len(bond_charges)
        self.num_positions = self.num_atoms + self.num_links + len(charged) + len(bond_charges)
        self.periodic = periodic
        self.is_cluster = periodic and bonds is not None
        link_starts, link_ends = [each.ml_atom for each in links], [each.mm_atom for each in links]
        first, second = (
            [each.first for each in bond_charges],
            [each.second for each in bond_charges],
        )
        # Of all bonds along which nearest images are taken: to parents, of links, of bond charges.
        parents = self._set_molecules(bonds or ())
        tree = [atoms[parent] for parent in parents] if self.is_cluster else []
        indices = {
            "atoms": atoms,
            "hosts": [places[atom] for atom in link_starts],
            "charged": charged,
            "starts": [*tree, *link_starts, *first],
            "ends": [*(atoms if tree else ()), *link_ends, *second],
        }
        for name, values in indices.items():
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.int64))
        distances = torch.tensor([link.distance for link in links], dtype=torch.float64)
        self.register_buffer("distances", distances)
        fractions = torch.tensor([charge.fraction for charge in bond_charges], dtype=torch.float64)
        self.register_buffer("fractions", fractions[:, None])
        self._set_pull_back([*link_starts, *link_ends, *first, *second])
        # MM charges are far from what they act on, bonds are short.
        self.exact_particles = sorted({*atoms, *indices["starts"], *indices["ends"]})

    def around(self, model: nn.Module, *, in_field: bool) -> "ArrangedModel":
        return (ArrangedModelInField if in_field else ArrangedModel)(model, self)

    def arrange(self, positions: FloatArray, cell: FloatArray | None) -> Arrangement:
        """The same as `forward`, from numpy arrays; `cell` is None if not periodic."""
        box = torch.zeros([3, 3]) if cell is None else torch.as_tensor(np.asarray(cell))
        arrangement: Arrangement = self(torch.as_tensor(np.asarray(positions)), box)
        return arrangement

    def _set_molecules(self, bonds: Sequence[Tuple[int, int]]) -> List[int]:
        """The parents of atoms in trees of bonds, and ancestors 1, 2, 4, ... generations up."""
        neighbors: List[List[int]] = [[] for _ in range(self.num_atoms)]
        for one, other in bonds:
            neighbors[one].append(other)
            neighbors[other].append(one)
        parents, molecules = [-1] * self.num_atoms, [-1] * self.num_atoms
        for root in range(self.num_atoms):
            if parents[root] >= 0:
                continue
            parents[root], molecules[root] = root, max(molecules) + 1
            queue = [root]
            for atom in queue:  # breadth first, while it grows
                for neighbor in sorted(neighbors[atom]):
                    if parents[neighbor] < 0:
                        parents[neighbor], molecules[neighbor] = atom, molecules[root]
                        queue.append(neighbor)
        generation = torch.tensor(parents)
        ancestors = [generation[:0].view(0, self.num_atoms)]
        while not torch.equal(generation[generation], generation):
            ancestors.append(generation[None])
            generation = generation[generation]
        self.register_buffer("ancestors", torch.cat(ancestors))
        self.register_buffer("molecules", torch.tensor(molecules))
        self.register_buffer("sizes", torch.bincount(self.molecules).to(torch.float64)[:, None])
        return parents

    def _set_pull_back(self, ends: Sequence[int]) -> None:
        """Where the forces of each particle come from.

        `sources` are the rows of ML atoms and MM charges; `slots` list for each of the few
        particles in `targets`, the `ends` of links and bond charges, the rows of what acts on it.
        Both point behind the last row where there is none.
        """
        sources = torch.full([self.num_particles], self.num_positions)
        sources[self.atoms] = torch.arange(self.num_atoms)
        start = self.num_atoms + self.num_links
        sources[self.charged] = torch.arange(start, start + self.num_charged)
        self.register_buffer("sources", sources)
        rows: dict[int, List[int]] = {}
        for row, particle in enumerate(ends):
            rows.setdefault(particle, []).append(row)
        most = max(map(len, rows.values()), default=0)
        slots = [row + [len(ends)] * (most - len(row)) for row in rows.values()]
        self.register_buffer("targets", torch.tensor(list(rows), dtype=torch.int64))
        self.register_buffer("slots", torch.tensor(slots, dtype=torch.int64).view(len(rows), most))

    def forward(self, positions: torch.Tensor, cell: torch.Tensor) -> Arrangement:
        """Arrange all particles of the force, shape [num_particles, 3] [A], float64.

        `cell` are the lattice vectors in rows, in OpenMM's reduced form; ignored if not periodic.
        """
        atoms = positions.index_select(0, self.atoms)
        starts = positions.index_select(0, self.starts)
        bonds = positions.index_select(0, self.ends) - starts
        if self.periodic:
            turns = lattice_shifts(bonds, cell)
            bonds = bonds - turns @ cell
            if self.is_cluster:
                atoms = self._in_one_piece(atoms, turns[: self.num_atoms], cell)
        directions, ratios = torch.zeros_like(positions[:0]), torch.zeros_like(positions[:0, 0])
        first_link = bonds.shape[0] - self.num_links - self.num_bond_charges
        first_charge = first_link + self.num_links
        parts = [atoms]
        if self.num_links > 0:
            along = bonds[first_link:first_charge]
            lengths = torch.sqrt((along * along).sum(dim=1))
            directions, ratios = along / lengths[:, None], self.distances / lengths
            hosts = atoms.index_select(0, self.hosts)
            parts.append(hosts + self.distances[:, None] * directions)
        if self.num_charged > 0:
            parts.append(positions.index_select(0, self.charged))
        if self.num_bond_charges > 0:
            parts.append(starts[first_charge:] + self.fractions * bonds[first_charge:])
        return Arrangement(torch.cat(parts), directions, ratios)

    @torch.jit.export
    def pull_back(self, forces: torch.Tensor, arrangement: Arrangement) -> torch.Tensor:
        """Forces [num_particles, 3] that do the work of `forces` on the arranged positions."""
        zero = torch.zeros_like(forces[:1])
        found = torch.cat([forces, zero]).index_select(0, self.sources)
        if self.num_links + self.num_bond_charges == 0:
            return found
        start = self.num_atoms + self.num_links
        on_links = forces[self.num_atoms : start]
        along = (on_links * arrangement.directions).sum(dim=1, keepdim=True)
        on_mm = arrangement.ratios[:, None] * (on_links - along * arrangement.directions)
        on_bonds = forces[start + self.num_charged :]
        on_second = self.fractions * on_bonds
        shares = [on_links - on_mm, on_mm, (1.0 - self.fractions) * on_bonds, on_second, zero]
        slots, width = self.slots.view(-1), self.slots.shape[1]
        shared = torch.cat(shares).index_select(0, slots).view(-1, width, 3).sum(dim=1)
        return found.index_add(0, self.targets, shared)

    def _in_one_piece(
        self, atoms: torch.Tensor, turns: torch.Tensor, cell: torch.Tensor
    ) -> torch.Tensor:
        """Move atoms by lattice vectors, whose integers add up along the tree of bonds.

        `turns` are the `lattice_shifts` of the vectors from parents to atoms, shape [n, 3].
        """
        for i in range(self.ancestors.shape[0]):
            turns = turns + turns.index_select(0, self.ancestors[i])
        atoms = atoms - turns @ cell
        if self.sizes.shape[0] == 1:
            return atoms
        sums = torch.zeros_like(self.sizes).expand(-1, 3).index_add(0, self.molecules, atoms)
        centres = sums / self.sizes
        return atoms - (lattice_shifts(centres - centres[:1], cell) @ cell).index_select(
            0, self.molecules
        )


class ArrangedModel(nn.Module):
    """A `SpecializedModel` that takes positions of particles and returns forces on them."""

    def __init__(self, model: Any, geometry: RegionGeometry) -> None:
        super().__init__()
        self.model: Any = model
        self.geometry: Any = copy.deepcopy(geometry)  # goes to the device of the model
        self.num_atoms = geometry.num_atoms + geometry.num_links
        self.num_others = geometry.num_particles - self.num_atoms

    def forward(self, positions: torch.Tensor, cell: torch.Tensor) -> Results:
        return self.evaluate(positions, cell)

    @torch.jit.export
    def evaluate(self, positions: torch.Tensor, cell: torch.Tensor) -> Results:
        """As `SpecializedModel.evaluate`, for particles.

        Charges are those of the atoms of the model, then zeros, for all particles. The strain
        derivative is that of the arranged positions.
        """
        arrangement = self.geometry(positions, cell)
        results = self.model.evaluate(arrangement.positions, cell)
        return self.for_particles(results, arrangement)

    def for_particles(self, results: Results, arrangement: Arrangement) -> Results:
        charges = results.charges.narrow(-1, 0, self.num_atoms)
        return Results(
            results.energy,
            self.geometry.pull_back(results.forces, arrangement),
            torch.nn.functional.pad(charges, [0, self.num_others]),
            results.strain,
            results.charge_energy,
            results.status,
        )


class ArrangedModelInField(ArrangedModel):
    """The same for a `ModelInField`."""

    def forward(  # type: ignore[override]
        self, positions: torch.Tensor, cell: torch.Tensor, field: torch.Tensor
    ) -> Results:
        return self.evaluate(positions, cell, field)

    @torch.jit.export
    def evaluate(  # type: ignore[override]
        self, positions: torch.Tensor, cell: torch.Tensor, field: torch.Tensor
    ) -> Results:
        arrangement = self.geometry(positions, cell)
        results = self.model.evaluate(arrangement.positions, cell, field)
        return self.for_particles(results, arrangement)


def lattice_shifts(vectors: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
    """The integers of the lattice vectors that lead from nearest images to given vectors.

    ``vectors - lattice_shifts(vectors, cell) @ cell`` are the nearest images, if the cell is in
    OpenMM's reduced form; shapes [n, 3] and [3, 3].
    """
    x, y, z = vectors.unbind(1)
    ax, _, _, bx, by, _, cx, cy, cz = cell.reshape(-1).unbind(0)
    z = torch.round(z / cz)
    y = torch.round((y - z * cy) / by)
    x = torch.round((x - z * cx - y * bx) / ax)
    return torch.stack([x, y, z], dim=1)
