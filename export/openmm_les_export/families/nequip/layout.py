"""How NequIP's features and weights are laid out: irreps, paths and blocks of every layer.

A checkpoint's weights are flat: this follows from a few options by the rules of nequip and e3nn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from openmm_les_export.checkpoints.records import Irrep

#: From this version of nequip on degrees run faster than parities, and without parity features are
#: those of natural parity; before it they were all even.
NATURAL_PARITY = (0, 16)


#: Irreps of harmonics and of hidden features.
Convention: TypeAlias = tuple[tuple[Irrep, ...], tuple[Irrep, ...]]


def convention(
    version: tuple[int, ...], lmax: int, parity: bool, features: Sequence[int]
) -> Convention:
    """What a version of nequip makes of its options."""
    degrees = range(lmax + 1)
    if version >= NATURAL_PARITY:
        order = [(d, p) for d in degrees for p in ((1, -1) if parity else ((-1) ** d,))]
        edge_parity = -1
    else:
        order = [(d, p) for p in ((1, -1) if parity else (1,)) for d in degrees]
        edge_parity = -1 if parity else 1
    return (
        tuple(Irrep(1, d, edge_parity**d) for d in degrees),
        tuple(Irrep(features[d], d, p) for d, p in order),
    )


@dataclass(frozen=True)
class Block:
    """A matrix inside a flat vector of weights, between slots of features."""

    source: int
    target: int
    shape: tuple[int, ...]
    scale: float  #: what e3nn multiplies it with


@dataclass(frozen=True)
class Layer:
    """A layer, slots in the order in which nequip keeps features."""

    nodes: tuple[Irrep, ...]
    outputs: tuple[Irrep, ...]
    #: Numbers of channels of each output before the gate.
    columns: tuple[int, ...]
    #: (slot of the node, degree of the edge, slot of the output), in the order of weights.
    paths: tuple[tuple[int, int, int], ...]

    def kinds(self) -> list[str]:
        """What the gate does to each output, as the canonical form names it."""
        scalar = {1: "silu", -1: "tanh"}
        return [scalar[irrep.p] if irrep.l == 0 else "gate" for irrep in self.outputs]

    def radial_columns(self) -> int:
        """Number of weights that the radial network gives each pair."""
        return sum(self.nodes[node].mul for node, _, _ in self.paths)

    def first_blocks(self) -> list[Block]:
        """Of the linear map before the sum over neighbours."""
        return [
            Block(i, i, (irrep.mul, irrep.mul), irrep.mul**-0.5)
            for i, irrep in enumerate(self.nodes)
        ]

    def second_blocks(self) -> list[Block]:
        """Of the linear map after it, with the rows of all paths to an output; sorted by irreps."""
        blocks = []
        for slot in self._sorted_outputs():
            rows = sum(self.nodes[node].mul for node, _, out in self.paths if out == slot)
            blocks.append(Block(-1, slot, (rows, self.columns[slot]), rows**-0.5))
        return blocks

    def skip_blocks(self, attributes: int) -> list[Block]:
        """Of the product of the atom's own features with the embedding of its element."""
        return [
            Block(i, slot, (irrep.mul, attributes, columns), (irrep.mul * attributes) ** -0.5)
            for i, irrep in enumerate(self.nodes)
            for slot in self._sorted_outputs()
            for columns in (self.columns[slot],)
            if (irrep.l, irrep.p) == (self.outputs[slot].l, self.outputs[slot].p)
        ]

    def _sorted_outputs(self) -> list[int]:
        # e3nn sorts irreps by degree, odd parity first.
        return sorted(
            range(len(self.outputs)), key=lambda s: (self.outputs[s].l, self.outputs[s].p)
        )


def layers(found: Convention, number: int, embedding: int, last: int) -> Iterator[Layer]:
    """All layers; features begin with the embedding of an element and end with `last` scalars."""
    nodes: tuple[Irrep, ...] = (Irrep(embedding, 0, 1),)
    edges, features = found
    for t in range(number):
        hidden = features if t < number - 1 else (Irrep(last, 0, 1),)
        made = layer(nodes, edges, hidden)
        yield made
        nodes = made.outputs


def layer(nodes: tuple[Irrep, ...], edges: tuple[Irrep, ...], hidden: tuple[Irrep, ...]) -> Layer:
    """One layer: of the hidden irreps those that a path leads to, scalars first.

    The even scalars bring further ones with them, which gate all features of higher degree.
    """
    products = [
        (i, edge.l, (degree, node.p * edge.p))
        for i, node in enumerate(nodes)
        for edge in edges
        for degree in range(abs(node.l - edge.l), node.l + edge.l + 1)
    ]
    reached = {product for _, _, product in products}
    kept = [irrep for irrep in hidden if (irrep.l, irrep.p) in reached]
    outputs = [*(i for i in kept if i.l == 0), *(i for i in kept if i.l > 0)]
    gates = sum(irrep.mul for irrep in outputs if irrep.l > 0)
    slots = {(irrep.l, irrep.p): slot for slot, irrep in enumerate(outputs)}
    return Layer(
        nodes,
        tuple(outputs),
        tuple(i.mul + (gates if (i.l, i.p) == (0, 1) else 0) for i in outputs),
        tuple((i, edge, slots[product]) for i, edge, product in products if product in slots),
    )


def path_scale(edge: int, out: int) -> float:
    """Factor of a path beside its Wigner 3j symbol.

    e3nn's component normalisation, and the sign by which harmonics of the vector to the neighbour,
    nequip's, differ from those of the vector to the atom, ours.
    """
    return (-1.0 if edge % 2 else 1.0) * math.sqrt(2 * out + 1)
