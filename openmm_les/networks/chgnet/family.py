"""CHGNet-LES: hyper-parameters, tensors, and where its code is."""

from __future__ import annotations

from pydantic import StrictBool

from openmm_les.networks.parameters import Hyper, Layers, Length, Real, Tensors
from openmm_les.networks.registry import Family


class CHGNet(Hyper):
    """Family ``chgnet``."""

    inner_cutoff: Length
    energy_offset: Real
    nonlinear_bonds: StrictBool
    nonlinear_angles: StrictBool
    num_layers: Layers


def _chgnet(hyper: CHGNet, tensors: Tensors) -> None:
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


FAMILIES = (
    Family(
        name="chgnet",
        title="CHGNet-LES",
        parameters=CHGNet,
        take_tensors=_chgnet,
        network="openmm_les.networks.chgnet.network:CHGNetNetwork",
        reader="openmm_les_export.families.chgnet.reader:read",
        accepted="openmm_les_export.families.chgnet.accepted:ACCEPTED",
        reference="openmm_les_export.families.chgnet.reference:CHGNetReference",
        options=("norm_factor", "self_interaction", "calibrate"),
        energy_steps=("cutoff", "inner_cutoff"),
        citation="Deng et al., Nat. Mach. Intell. 5, 1031 (2023)",
    ),
)
