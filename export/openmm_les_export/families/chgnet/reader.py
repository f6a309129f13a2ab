"""Reads CHGNet-LES models saved by MatGL: a directory becomes a `CanonicalModel`.

No more than torch is needed. The form is that of ``docs/reference/formats/chgnet.md``, the formulas
are those of Deng et al., Nat. Mach. Intell. 5, 1031 (2023), and of MatGL where it differs.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.named_tensors import NamedTensors
from openmm_les_export.checkpoints.records import invalid, unsupported
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.canonical_form import State, canonical_form
from openmm_les_export.families.chgnet.accepted import (
    ARGUMENTS,
    PREFACTOR,
    PREFIX,
    STATE,
    check_arguments,
)
from openmm_les_export.families.les_choice import (
    PREFACTORS,
    LESChoice,
    les_from_arguments,
    read_with_choice,
)
from openmm_les_export.options import ModelOptions

#: MatGL's elements where a model states none.
_ALL = range(1, 95)


def read(opened: ModelFile, options: ModelOptions) -> CanonicalModel:
    """The canonical form of a CHGNet-LES model, see `canonical_model`."""
    prefactors = (None,) if PREFACTOR in opened[ARGUMENTS] else PREFACTORS
    return read_with_choice(partial(_read, opened), options, prefactors)


def _read(saved: ModelFile, choice: LESChoice) -> CanonicalModel:
    arguments, les_arguments = check_arguments(saved)
    les, origins = les_from_arguments(les_arguments, choice, PREFIX)
    weights = NamedTensors(saved[STATE], saved.kind)
    dtype = weights.dtype("model.atom_embedding.weight")
    scale, offset = (float(weights.take(f"data_{name}", ())) for name in ("std", "mean"))
    if not scale > 0:
        raise invalid("data_std", "a positive number", scale)
    # Energies of the network and of its charges are in units of data_std.
    les["prefactor"] = float(les["prefactor"]) * scale
    if scale != 1.0:
        origins["prefactor"] += f", times data_std {scale:g}"
    reader = _Reader(Options(arguments), weights)
    hyper = reader.network(scale)
    elements = reader.elements(arguments.get("element_types"), saved[ARGUMENTS]["element_refs"])
    weights.check_all_taken()
    return canonical_form(
        saved,
        hyper={"elements": elements, "energy_offset": offset, **hyper},
        state=reader.state,
        les=les,
        vintage="MatGL with DGL",
        dtype=dtype,
        origins=origins,
    )


class _Reader:
    """Takes the tensors of the network in turn."""

    def __init__(self, options: Options, weights: NamedTensors) -> None:
        self.state: State = {}
        self._options = options
        self._weights = weights
        self._atoms, self._bonds, self._angles = (
            options.integer(f"dim_{name}_embedding", 64, 1) for name in ("atom", "bond", "angle")
        )
        self._functions = options.integer("max_n", 9, 1)
        kinds = {"atom": "atom_conv", "bond": "bond_update"}
        kinds |= {"line": "bond_conv", "angle": "angle_update"}
        self._hidden = {ours: options.widths(f"{name}_hidden_dims") for ours, name in kinds.items()}
        if self._hidden["atom"] is None or self._hidden["line"] is None:
            raise unsupported(
                "option atom_conv_hidden_dims, bond_conv_hidden_dims", "integers", "none"
            )
        #: Factors of all layers, by the update that they are of.
        self._shared: dict[str, torch.Tensor] = {}
        shared = options.text("shared_bond_weights")
        if shared in ("bond", "both"):
            self._shared["atom"] = self._map("atom_bond_weights", self._functions, self._atoms)
            self._shared["bond"] = self._map("bond_bond_weights", self._functions, self._bonds)
        if shared in ("three_body_bond", "both"):
            self._shared["line"] = self._map("threebody_bond_weights", self._functions, self._bonds)
        self._norm = options.text("normalization") == "layer"
        self._norm_hidden = options.flag("normalize_hidden", False)

    def network(self, scale: float) -> dict[str, Any]:
        """Reads all of the network, and returns its hyper-parameters."""
        options, state = self._options, self.state
        cutoffs = {name: options.positive(name) for name in ("cutoff", "threebody_cutoff")}
        bessel, fourier = self._functions, options.integer("max_f", 4, 0)
        state["atoms"] = self._take("atom_embedding.weight", (-1, self._atoms))
        for name, prefix in (("bond", ""), ("inner", "threebody_")):
            frequencies = self._take(f"{prefix}bond_expansion.frequencies", (bessel,))
            state[f"{name}_frequencies"] = frequencies / cutoffs[f"{prefix}cutoff"]
        state["angle_frequencies"] = self._take("angle_expansion.frequencies", (fourier + 1,))
        state["bonds"] = self._map("bond_embedding.layers.0", bessel, self._bonds)
        # Cosines and sines alternate in the file; here the cosines come first.
        angles = self._map("angle_embedding.layers.0", 2 * fourier + 1, self._angles) / math.pi
        state["angles"] = torch.cat([angles[::2], angles[1::2]])
        number = options.integer("num_blocks", 4, 1, 32)
        self._layers(number)
        self._readouts(scale)
        return {
            "cutoff": cutoffs["cutoff"],
            "inner_cutoff": cutoffs["threebody_cutoff"],
            "cutoff_order": options.integer("cutoff_exponent", 5, 2, 100),
            "nonlinear_bonds": options.flag("non_linear_bond_embedding", False),
            "nonlinear_angles": options.flag("non_linear_angle_embedding", False),
            "num_layers": number,
        }

    def elements(self, symbols: Any, references: Any) -> list[int]:
        """Atomic numbers of the rows of the embedding; None stands for those of MatGL.

        References go into the state; None if the model has none.
        """
        number = self.state["atoms"].shape[0]
        known = list(_ALL) if symbols is None else self._options.elements("element_types")
        if len(known) != number:
            raise invalid("element_types", f"the {number} elements of the embedding", len(known))
        energies = torch.zeros(number, dtype=torch.float64)
        if references is not None:
            energies = self._weights.take("element_refs.property_offset", (-1,))
            self._weights.take("element_refs.onehot", (len(energies), len(energies)))
        # An element without a reference is one that MatGL cannot compute.
        number = min(number, len(energies))
        self.state["reference_energies"] = energies[:number]
        self.state["atoms"] = self.state["atoms"][:number]
        return known[:number]

    def _layers(self, number: int) -> None:
        atoms, bonds, own = self._atoms, self._bonds, self._options.text("layer_bond_weights")
        for t in range(number):
            source, name = f"atom_graph_layers.{t}", f"layers.{t}"
            convolution = f"{source}.conv_layer"
            self._block(name, "atom", f"{convolution}.node")
            self._block(name, "bond", f"{convolution}.edge")
            if own in ("bond", "both"):
                self._factor(f"{name}.atom", f"{convolution}.node_weight_func", atoms)
                if self._hidden["bond"] is not None:
                    self._factor(f"{name}.bond", f"{convolution}.edge_weight_func", bonds)
            for norm, width in (("atom_norm", atoms), ("bond_norm", bonds)):
                if self._norm:
                    self._normalization(f"{name}.{norm}", f"{source}.{norm}", width)
        for t in range(number - 1):
            convolution, name = f"bond_graph_layers.{t}.conv_layer", f"layers.{t}"
            self._block(name, "line", f"{convolution}.node")
            self._block(name, "angle", f"{convolution}.edge")
            if own in ("three_body_bond", "both"):
                self._factor(f"{name}.line", f"{convolution}.node_weight_func", bonds, bias=True)
        # Nothing reads the angles that come out of the last layer.
        for name in [n for n in self.state if n.startswith(f"layers.{number - 2}.angle.")]:
            del self.state[name]

    def _block(self, layer: str, kind: str, source: str) -> None:
        """The gated network of an update, the map of its sums, and the shared factor."""
        hidden, bonds = self._hidden[kind], self._bonds
        if hidden is None:
            return
        width = {"atom": self._atoms, "angle": self._angles}.get(kind, bonds)
        pair, triple = 2 * self._atoms + bonds, 2 * bonds + self._angles + self._atoms
        inputs = pair if kind in ("atom", "bond") else triple
        name, widths = f"{layer}.{kind}", [inputs, *hidden, width]
        for ours, theirs in (("value", "layers"), ("gate", "gates")):
            for k in range(len(widths) - 1):
                key, last = f"{name}.{ours}.{k}", k == len(widths) - 2
                branch = f"{source}_update_func.{theirs}"
                self._affine(key, f"{branch}.layers.{k}", widths[k], widths[k + 1])
                if self._norm and (last or self._norm_hidden):
                    place = k if self._norm_hidden else 0
                    self._normalization(
                        f"{key}.norm", f"{branch}.norm_layers.{place}", widths[k + 1]
                    )
        if kind in ("atom", "line"):
            self.state[f"{name}.output"] = self._map(f"{source}_out_func", width, width)
        if kind in self._shared:
            self.state[f"{name}.factors.0.weight"] = self._shared[kind]

    def _factor(self, name: str, source: str, width: int, bias: bool = False) -> None:
        """The factor of one layer alone, behind the shared one."""
        k = sum(entry.startswith(f"{name}.factors.") for entry in self.state)
        self.state[f"{name}.factors.{k}.weight"] = self._map(source, self._functions, width)
        if bias:
            self.state[f"{name}.factors.{k}.bias"] = self._take(f"{source}.bias", (width,))

    def _readouts(self, scale: float) -> None:
        hidden = self._options.widths("final_hidden_dims")
        widths = [self._atoms, *(hidden or []), 1]
        for name, source in (("energy", "final_layer"), ("charge", "latent_charge_readout")):
            for k in range(len(widths) - 1):
                self._affine(f"{name}.{k}", f"{source}.layers.{k}", widths[k], widths[k + 1])
        for part in ("weight", "bias"):
            last = f"energy.{len(widths) - 2}.{part}"
            self.state[last] = self.state[last] * scale
        targets = self._options.integer("num_site_targets", 1, 0)
        if targets > 0:  # magnetic moments
            self._map("magmom_readout", self._atoms, targets)
            self._take("magmom_readout.bias", (targets,))

    def _affine(self, name: str, source: str, inputs: int, outputs: int) -> None:
        self.state[f"{name}.weight"] = self._map(source, inputs, outputs)
        self.state[f"{name}.bias"] = self._take(f"{source}.bias", (outputs,))

    def _normalization(self, name: str, source: str, width: int) -> None:
        for part in ("weight", "bias"):
            self.state[f"{name}.{part}"] = self._take(f"{source}.{part}", (width,))

    def _map(self, source: str, inputs: int, outputs: int) -> torch.Tensor:
        """A linear map, [in, out]."""
        return self._take(f"{source}.weight", (outputs, inputs)).t()

    def _take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self._weights.take(f"model.{name}", shape)
