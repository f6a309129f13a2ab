"""Which tensors a model has, and of what shape: what its hyper-parameters say, for each family.

``docs/design.md`` has the same tables for people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from openmm_les.artifact import schema
from openmm_les.files.reading import Damage

#: Numbers in one table: ten times those of the largest published models.
_LARGEST = 2**26


class _Tensors:
    """Shapes by name, taken one by one so that none is left over.

    Args:
        found: of the model's tensors.
    """

    def __init__(self, found: Mapping[str, tuple[int, ...]]) -> None:
        self._left = dict(found)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, *expected: int | None) -> tuple[int, ...]:
        """The shape of a tensor that must be there."""
        if name not in self._left:
            raise Damage(f"weights: expected a tensor {name}, got none")
        shape = self._left.pop(name)
        fits = len(shape) == len(expected) and all(
            wanted in (None, got) for wanted, got in zip(expected, shape, strict=True)
        )
        if not fits:
            wanted = ["any" if width is None else width for width in expected]
            raise Damage(f"weights: {name}: expected shape {wanted}, got {list(shape)}")
        return shape

    def perhaps(self, name: str, *expected: int | None) -> bool:
        """Whether a tensor is there that need not be."""
        if name not in self._left:
            return False
        self.take(name, *expected)
        return True

    def network(
        self, prefix: str, inputs: int, outputs: int, ending: str = "", norms: bool = False
    ) -> int:
        """Maps ``prefix.K`` + ending one behind the other, with biases or without.

        Returns:
            The inputs of the last one.
        """
        k = last = 0
        while f"{prefix}.{k}{ending}" in self._left:
            last, inputs = self.take(f"{prefix}.{k}{ending}", inputs, None)
            if ending:
                self.perhaps(f"{prefix}.{k}.bias", inputs)
            if norms:
                self.norm(f"{prefix}.{k}.norm", inputs)
            k += 1
        if not k or inputs != outputs:
            raise Damage(f"weights: {prefix}: expected {outputs} outputs, got {inputs if k else 0}")
        return last

    def norm(self, name: str, width: int) -> None:
        """A layer normalisation that need not be there."""
        if self.perhaps(f"{name}.weight", width):
            self.take(f"{name}.bias", width)

    def check_all_taken(self) -> None:
        """Refuses what no such model has."""
        if self._left:
            raise Damage(f"weights: unknown tensor {next(iter(self._left))}")


def check_state(family: str, hyper: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses weights that do not fit the hyper-parameters.

    Args:
        family: of the model, one that `schema` knows.
        hyper: its hyper-parameters, as `schema.check_model` returns them.
        shapes: of its tensors, by name.

    Raises:
        Damage: names the tensor, what was expected and what came.
    """
    tensors = _Tensors(shapes)
    tensors.take("reference_energies", len(hyper.elements))
    if isinstance(hyper, schema.Bessel):
        tensors.take("bessel_frequencies", hyper.num_bessel)
    _FAMILIES[family](hyper, tensors)
    tensors.check_all_taken()


def _check_large(name: str, *sizes: int) -> None:
    """Refuses a table, made of weights that are each small, that would take all memory."""
    if math.prod(sizes) > _LARGEST:
        raise Damage(f"weights: {name}: expected tables of at most {_LARGEST} numbers")


def _mace(hyper: schema.MACE, tensors: _Tensors) -> None:
    z, c, degrees = len(hyper.elements), hyper.channels, range(hyper.lmax + 1)
    tensors.take("embedding", z, c)
    for t, layer in enumerate(hyper.layers):
        name = f"layers.{t}"
        for d in range(layer.node_lmax + 1):
            tensors.take(f"{name}.up.{d}", c, c)
        for d in degrees:
            paths = sum(out == d for _, _, out in layer.paths)
            tensors.take(f"{name}.mix.{d}", paths * c, c)
            tensors.perhaps(f"{name}.selector.{d}", z, c, c)
        width = tensors.network(f"{name}.radial", hyper.num_bessel, len(layer.paths) * c)
        _check_large(name, width, hyper.lmax + 1, c, z if t == 0 else 1)
        tensors.perhaps(f"{name}.density", hyper.num_bessel, 1)
        order = max(3, layer.correlation)
        monomials = math.comb((hyper.lmax + 1) ** 2 + order, order)
        for d in range(layer.output_lmax + 1):
            rank, _, _ = tensors.take(f"{name}.product.{d}.basis", None, 2 * d + 1, monomials)
            tensors.take(f"{name}.product.{d}.weights", z, rank, c)
            tensors.take(f"{name}.output.{d}", c, c)
            tensors.perhaps(f"{name}.skip.{d}", z, c, c)
        for readout in ("energy", "charge"):
            tensors.network(f"{name}.{readout}", c, 1)
    if hyper.distance_transform is not None:
        tensors.take("transform.radii", z)
    if hyper.zbl is not None:
        tensors.take("zbl.radii", z)


def _cace(hyper: schema.CACE, tensors: _Tensors) -> None:
    z, degrees = len(hyper.elements), sum(hyper.monomials[-1]) + 1
    senders, receivers = (tensors.take(name, z, None)[1] for name in ("sender", "receiver"))
    channels, functions = senders * receivers, None
    for d in range(degrees):
        functions = tensors.take(f"radial.{d}", channels, hyper.num_bessel, functions)[2]
    features = channels * len(hyper.invariants) * (functions or 0)
    for t in range(hyper.num_messages):
        _dense(tensors, f"message.{t}", features, degrees * channels)
    for readout in ("energy", "charge"):
        _dense(tensors, readout, (hyper.num_messages + 1) * features, 1)


def _dense(tensors: _Tensors, prefix: str, inputs: int, outputs: int) -> None:
    """A network, with one linear map beside it or not."""
    tensors.network(prefix, inputs, outputs, ".weight")
    if tensors.perhaps(f"{prefix}.linear.weight", inputs, outputs):
        tensors.perhaps(f"{prefix}.linear.bias", outputs)


def _nequip(hyper: schema.NequIP, tensors: _Tensors) -> None:
    z = len(hyper.elements)
    tensors.take("energy_scales", z)
    tensors.take("embedding", z, hyper.layers[0].nodes[0][1])
    for t, layer in enumerate(hyper.layers):
        name = f"layers.{t}"
        for slot, (_, width) in enumerate(layer.nodes):
            tensors.take(f"{name}.up.{slot}", width, width)
        for p, (node, _, out) in enumerate(layer.paths):
            tensors.take(f"{name}.mix.{p}", layer.nodes[node][1], layer.columns(out))
        for node, out in layer.skips:
            tensors.take(f"{name}.skip.{out}", z, layer.nodes[node][1], layer.columns(out))
        columns = sum(layer.nodes[node][1] for node, _, _ in layer.paths)
        width = tensors.network(f"{name}.radial", hyper.num_bessel, columns)
        widest = max(layer.columns(slot) for slot in range(len(layer.outputs)))
        _check_large(name, width, hyper.lmax + 1, widest, z if t == 0 else 1)
    scalars = hyper.layers[-1].outputs[0][1]
    for readout in ("energy", "charge"):
        tensors.network(readout, scalars, 1, ".weight")


def _allegro(hyper: schema.Allegro, tensors: _Tensors) -> None:
    z, f, c, harmonics = len(hyper.elements), hyper.scalars, hyper.channels, (hyper.lmax + 1) ** 2
    weights = c * (hyper.lmax + 1)
    tensors.take("energy_scales", z)
    (_, _, embedding) = tensors.take("pair_types", z, z, None)
    tensors.take("basis", hyper.num_bessel, embedding)
    tensors.network("embedding", embedding, f, ".weight")
    tensors.take("tensors", f, weights)
    tensors.take("projection", f, f + weights)
    width: int | None = harmonics
    for t in range(hyper.num_layers):
        last = t == hyper.num_layers - 1
        shape = (c, width, harmonics, 1 if last else None)
        width = tensors.take(f"layers.{t}.couplings", *shape)[3]
        outputs = f + (0 if last else weights)
        tensors.network(f"layers.{t}.latent", (t + 1) * f + c, outputs, ".weight")
    for readout in ("energy", "charge"):
        tensors.network(readout, (hyper.num_layers + 1) * f, 1, ".weight")


def _chgnet(hyper: schema.CHGNet, tensors: _Tensors) -> None:
    atoms = tensors.take("atoms", len(hyper.elements), None)[1]
    (functions,) = tensors.take("bond_frequencies", None)
    tensors.take("inner_frequencies", functions)
    (angular,) = tensors.take("angle_frequencies", None)
    bonds = tensors.take("bonds", functions, None)[1]
    angles = tensors.take("angles", 2 * angular - 1, None)[1]
    pair, triple = 2 * atoms + bonds, 2 * bonds + angles + atoms
    for t in range(hyper.num_layers):
        blocks = [("atom", pair, atoms, True), ("bond", pair, bonds, False)]
        if t < hyper.num_layers - 1:
            blocks += [("line", triple, bonds, True), ("angle", triple, angles, False)]
        for kind, inputs, outputs, summed in blocks:
            name = f"layers.{t}.{kind}"
            if not summed and f"{name}.value.0.weight" not in tensors:
                continue
            for branch in ("value", "gate"):
                tensors.network(f"{name}.{branch}", inputs, outputs, ".weight", norms=True)
            if summed:
                tensors.take(f"{name}.output", outputs, outputs)
            for k in range(2):
                if tensors.perhaps(f"{name}.factors.{k}.weight", functions, outputs):
                    tensors.perhaps(f"{name}.factors.{k}.bias", outputs)
        tensors.norm(f"layers.{t}.atom_norm", atoms)
        tensors.norm(f"layers.{t}.bond_norm", bonds)
    for readout in ("energy", "charge"):
        tensors.network(readout, atoms, 1, ".weight")


_FAMILIES: Mapping[str, Callable[[Any, _Tensors], None]] = {
    "mace": _mace,
    "cace": _cace,
    "nequip": _nequip,
    "allegro": _allegro,
    "chgnet": _chgnet,
}
