"""Names and shapes of canonical tensors, as the pages of docs/reference/formats/ define them.

Written out for the small models of `tests/checkpoints`, whose sizes are all known.
"""

import itertools
import re

import pytest
import torch
from openmm_les_export import read_model
from support.checkpoints import checkpoint, export_options

#: Braces stand for each of their entries. All models have four elements, Z = 4.
TABLES = {
    # 3 channels, 6 Bessel functions, degrees up to 2: 3 and 11 paths, 220 = C(10 + 2, 3) monomials.
    # Couplings up to second order: 4 to degree 0 (A0; A0 A0, A1 A1, A2 A2), 3 to 1, and 4 to 2.
    "mace": """
        reference_energies,transform.radii,zbl.radii: 4
        embedding: 4 3
        bessel_frequencies: 6
        layers.{0,1}.density: 6 1
        layers.{0,1}.radial.0: 6 5
        layers.0.radial.1: 5 9
        layers.1.radial.1: 5 33
        layers.0.up.0,layers.1.up.{0,1,2}: 3 3
        layers.0.mix.{0,1,2}: 3 3
        layers.1.mix.0: 9 3
        layers.1.mix.{1,2}: 12 3
        layers.0.selector.{0,1,2},layers.1.skip.0: 4 3 3
        layers.{0,1}.product.0.basis: 4 1 220
        layers.0.product.1.basis: 3 3 220
        layers.0.product.2.basis: 4 5 220
        layers.{0,1}.product.0.weights,layers.0.product.2.weights: 4 4 3
        layers.0.product.1.weights: 4 3 3
        layers.0.output.{0,1,2},layers.1.output.0: 3 3
        layers.0.{energy,charge}.0: 3 1
        layers.1.{energy,charge}.0: 3 5
        layers.1.{energy,charge}.1: 5 1
    """,
    # 5 Bessel functions, 4 features of degrees 0 and 1, of which the second gates the first.
    "nequip": """
        reference_energies,energy_scales: 4
        bessel_frequencies: 5
        embedding: 4 4
        layers.0.up.0,layers.1.up.{0,1}: 4 4
        layers.{0,1}.radial.0: 5 8
        layers.{0,1}.radial.1: 8 8
        layers.0.mix.0: 4 8
        layers.0.mix.1,layers.1.mix.{0,1}: 4 4
        layers.1.skip.0: 4 4 4
        {energy,charge}.0.weight: 4 1
    """,
    # 3 channels, 6 scalars, degrees up to 1: 4 harmonics, and 6 weights of them.
    "allegro": """
        reference_energies,energy_scales: 4
        bessel_frequencies: 5
        basis: 5 4
        pair_types: 4 4 4
        embedding.0.weight: 4 7
        embedding.1.weight: 7 6
        tensors: 6 6
        projection: 6 12
        layers.0.couplings: 3 4 4 4
        layers.1.couplings: 3 4 4 1
        layers.0.latent.0.weight: 9 8
        layers.0.latent.1.weight: 8 12
        layers.1.latent.0.weight: 15 8
        layers.1.latent.1.weight: 8 6
        {energy,charge}.0.weight: 18 5
        {energy,charge}.1.weight: 5 1
    """,
    # 4 Bessel functions, 2 x 2 channels, degrees up to 2, 2 radial functions, 5 invariants.
    "cace": """
        reference_energies,bessel_frequencies: 4
        {sender,receiver}: 4 2
        radial.{0,1,2}: 4 4 2
        message.0.0.weight: 40 12
        message.0.0.bias: 12
        {energy,charge}.0.weight: 80 6
        {energy,charge}.0.bias: 6
        {energy,charge}.1.weight: 6 5
        {energy,charge}.1.bias: 5
        {energy,charge}.2.weight: 5 1
        {energy,charge}.{2,linear}.bias: 1
        {energy,charge}.linear.weight: 80 1
    """,
    # 7 radial functions, 4 frequencies of angles, features of 6 (atom), 5 (bond) and 4 (angle).
    "chgnet": """
        reference_energies,angle_frequencies: 4
        {bond,inner}_frequencies: 7
        atoms: 4 6
        bonds: 7 5
        angles: 7 4
        layers.{0,1}.atom.{value,gate}.0.weight: 17 7
        layers.{0,1}.atom.{value,gate}.0.bias: 7
        layers.{0,1}.atom.{value,gate}.1.weight: 7 6
        layers.{0,1}.atom.{value,gate}.1.bias: 6
        layers.{0,1}.atom.output: 6 6
        layers.{0,1}.atom.factors.0.weight: 7 6
        layers.0.line.{value,gate}.0.weight: 20 6
        layers.0.line.{value,gate}.0.bias: 6
        layers.0.line.{value,gate}.1.weight: 6 5
        layers.0.line.{value,gate}.1.bias: 5
        layers.0.line.output: 5 5
        layers.0.line.factors.0.weight: 7 5
        {energy,charge}.0.weight: 6 6
        {energy,charge}.0.bias: 6
        {energy,charge}.1.weight: 6 5
        {energy,charge}.1.bias: 5
        {energy,charge}.2.weight: 5 1
        {energy,charge}.2.bias: 1
    """,
}


def shapes(table: str) -> dict[str, tuple[int, ...]]:
    """Every name of a table with its shape."""
    found = {}
    for line in table.strip().splitlines():
        names, _, shape = line.partition(":")
        for pattern in re.split(r",(?![^{]*})", names.strip()):
            parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
            for name in map("".join, itertools.product(*parts)):
                found[name] = tuple(map(int, shape.split()))
    return found


@pytest.mark.parametrize("name", TABLES)
def test_tensors_are_those_of_the_format_page(tmp_path, name):
    model = read_model(checkpoint(name, tmp_path), **export_options(name))
    found = {name: tuple(tensor.shape) for name, tensor in model.state.items()}
    assert found == shapes(TABLES[name])
    assert all(tensor.dtype == torch.float64 for tensor in model.state.values())
