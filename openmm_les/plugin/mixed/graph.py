"""The bonds of a topology as a graph: which atoms a term of a force field runs along."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise


class BondGraph:
    """Neighbours of every atom.

    Args:
        num_atoms: number of atoms.
        bonds: pairs of atom indices.
    """

    def __init__(self, num_atoms: int, bonds: Iterable[tuple[int, int]]) -> None:
        self.neighbors: list[set[int]] = [set() for _ in range(num_atoms)]
        for first, second in bonds:
            self.neighbors[first].add(second)
            self.neighbors[second].add(first)

    def is_chain(self, atoms: Sequence[int]) -> bool:
        """Whether each atom is bonded to the next."""
        return all(second in self.neighbors[first] for first, second in pairwise(atoms))

    def centre_of(self, atoms: Sequence[int]) -> int | None:
        """The atom to which all others are bonded (the centre of an improper torsion), if any."""
        for atom in atoms:
            if all(other in self.neighbors[atom] for other in atoms if other != atom):
                return atom
        return None

    def is_connected(self, atoms: Iterable[int]) -> bool:
        """Whether the atoms hang together by bonds among themselves."""
        left = set(atoms)
        reached = [left.pop()] if left else []
        while reached:
            found = self.neighbors[reached.pop()] & left
            left -= found
            reached.extend(found)
        return not left

    def separation(self, first: int, second: int, limit: int) -> int | None:
        """Number of bonds on the shortest way between two atoms; None if more than `limit`."""
        return self._shortest(first, second, limit, direct=True)

    def smallest_ring(self, first: int, second: int, limit: int) -> int | None:
        """Size of the smallest ring that holds the bond of two atoms; None above `limit`."""
        around = self._shortest(first, second, limit - 1, direct=False)
        return None if around is None else around + 1

    def _shortest(self, first: int, second: int, limit: int, *, direct: bool) -> int | None:
        distance, queue = {first: 0}, deque([first])
        while queue:
            atom = queue.popleft()
            if atom == second:
                return distance[atom]
            if distance[atom] == limit:
                continue
            for neighbor in self.neighbors[atom]:
                is_the_bond = atom == first and neighbor == second
                if neighbor not in distance and (direct or not is_the_bond):
                    distance[neighbor] = distance[atom] + 1
                    queue.append(neighbor)
        return None
