"""The modules of one system: network, electrostatics, and what joins them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.electrostatics.multipoles import INDUCED_ROWS, electrostatics_for
from openmm_les.errors import InputError
from openmm_les.evaluation.assembly import SpecializedModel, order_by_species
from openmm_les.evaluation.capacity import BOX_GROWTH, Buffers
from openmm_les.evaluation.checks import check_sign, check_single_charge
from openmm_les.evaluation.conditions import kinds_of_atoms
from openmm_les.evaluation.engines.variant import Variant, candidates
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.response.field import ModelInField
from openmm_les.evaluation.response.module import ResponseModule
from openmm_les.evaluation.response.polarization import PhysicalCharges
from openmm_les.networks import build_network
from openmm_les.networks.blocks.blocking import fit_blocks, limit_blocks
from openmm_les.networks.form import Form
from openmm_les.networks.kernels import Kernels, obstacle, usual_kernels

logger = logging.getLogger(__name__)

#: On a GPU launches take most of the time of systems with at most this many pair slots (estimate).
_FEW_PAIRS = 2**14


class Geometry(Protocol):
    """Finds the positions that a model sees among those of other particles."""

    num_particles: int
    exact_particles: list[int]  #: of which every digit of a position matters.

    def around(self, model: nn.Module, *, in_field: bool) -> Any:
        """A module for particles from a `SpecializedModel` (or `ModelInField`)."""

    def arrange(self, positions: FloatArray, cell: FloatArray | None) -> Any:
        """Its ``positions`` are those that the model sees, a tensor."""


@dataclass
class ModuleBuilder:
    """Builds the modules of one system for the buffers that it has now; see `SystemModel`."""

    artifact: Artifact
    numbers: Sequence[int]
    options: EvaluationOptions
    _: KW_ONLY
    periodic: bool
    surroundings: Surroundings | None
    electric_field: bool
    geometry: Geometry | None
    to_gpu: bool
    static_shapes: bool
    python_operators: bool

    def __post_init__(self) -> None:
        if self.electric_field:
            check_sign(self.artifact)
        if self.surroundings is not None:
            check_single_charge(self.artifact, "surroundings")
        self.device = torch.device(self.options.device or "cpu")
        on_gpu = self.device.type != "cpu"
        self.for_gpu = on_gpu or self.to_gpu  #: whether the modules will run on a GPU
        self.static_shapes |= on_gpu
        known = {z: i for i, z in enumerate(self.artifact.elements)}
        atoms = kinds_of_atoms(self.artifact, self.numbers, self.options.conditions)
        kinds = sorted(set(atoms))
        species = {kind: i for i, kind in enumerate(kinds)}
        self._present = [known[z] for z, *_ in kinds]
        self._conditions = [values for _, *values in kinds]
        self._species = torch.tensor([species[kind] for kind in atoms])
        self._order = order_by_species(self._species)
        references = self.artifact.canonical.state["reference_energies"]
        self.reference_energy = float(references[[known[z] for z in self.numbers]].sum())
        self._dtype = torch.float32 if self.options.precision == "single" else torch.float64
        self.network: Any = None  #: of the kinds of atoms present, once a module has been built
        self._network_of = Variant()  #: what `network` was built for
        self._is_static = self.static_shapes
        self._electrostatics: nn.Module | None = None

    @property
    def rows(self) -> int:
        """Latent numbers of each atom that the modules return."""
        layout = self.artifact.layout
        return self.artifact.channels if layout is None else layout.rows + INDUCED_ROWS

    def buffers(self, cell: FloatArray | None, positions: FloatArray | None) -> Buffers:
        return Buffers(
            len(self._species),
            self.artifact.cutoff,
            cell,
            positions,
            self.options.maxNeighbors,
            self.for_gpu,
            self.artifact.canonical.hyper.get("inner_cutoff"),
        )

    def fit(self, buffers: Buffers) -> None:
        """Make modules for these buffers from now on."""
        self._sizes = buffers
        self._electrostatics = self._build_electrostatics(buffers)

    @property
    def pairs(self) -> int:
        """Pair slots."""
        return len(self._species) * self._sizes.capacity

    @property
    def kernels(self) -> Kernels:
        """The kernels beside torch code that can compute heavy parts here; else ``'torch'``."""
        if self.device.type == "cuda":
            return "torch" if obstacle("triton", **self._circumstances) else "triton"
        return usual_kernels(**self._circumstances)

    @property
    def _circumstances(self) -> dict[str, bool]:
        """Where the modules will run, as `obstacle` asks for it."""
        return {
            "single": self.options.precision == "single",
            "on_gpu": self.for_gpu,
            "static_shapes": self.static_shapes,
            "python_operators": self.python_operators,
        }

    def usual(self) -> Variant:
        """How modules are computed where nothing was measured."""
        return replace(self.plain(), kernels=usual_kernels(**self._circumstances))

    def plain(self) -> Variant:
        """Torch code, as TorchScript runs it: what all others are compared with."""
        return Variant(
            few_kernels=self.for_gpu and self.pairs <= _FEW_PAIRS,
            graph=self.device.type == "cuda" and self.options.cudaGraphs is not False,
        )

    def candidates(self) -> list[Variant]:
        """What may be the fastest, the plain variant first."""
        found = candidates(
            self.plain(),
            pairs=self.pairs,
            on_gpu=self.device.type == "cuda",
            graphs=self.options.cudaGraphs,
            kernels=self.kernels,
        )
        # A network may have loops for everything that has a form with few kernels, so that both
        # forms are the same.
        loops = [each for each in found if each.kernels == "numba"]
        if len(loops) > 1:
            # What is there already is the first of them, unless another variant was given.
            is_there = self.network is not None and self._network_of == _built_for(loops[0])
            first = self.network if is_there else self._build_network(loops[0])
            parts = [list(map(type, n.modules())) for n in (first, self._build_network(loops[1]))]
            found = [each for each in found if each != loops[1] or parts[1] != parts[0]]
        return found

    def system(self) -> dict[str, Any]:
        """What the time of an evaluation depends on, beside device and versions; sizes roughly."""
        others = len(self.surroundings.charges) if self.surroundings else 0
        particles = self.geometry.num_particles if self.geometry else 0
        return {
            "artifact": self.artifact.sha256,
            "precision": self.options.precision,
            "periodic": self.periodic,
            "electrostatics": type(self._electrostatics).__name__,
            "electric field": self.electric_field,
            "cudaGraphs": self.options.cudaGraphs,
            "kernels": self.kernels,
            "cells": self._sizes.grid is not None,
            # The number of binary digits: systems of one class differ by a factor of two at most.
            "atoms": len(self._species).bit_length(),
            "pairs": self.pairs.bit_length(),
            "others": max(others, particles).bit_length(),
        }

    def model(self, variant: Variant) -> Any:
        """The module for energy and forces, on the device of the options.

        Graph and threads of the variant are what an `Evaluator` adds.

        Raises:
            InputError: its kernels cannot compute them here.
        """
        # Code that is compiled or recorded is made for the shapes that it has seen.
        self._is_static = self.static_shapes or variant.runner != "torchscript"
        needs = self._circumstances | {"static_shapes": self._is_static}
        if reason := obstacle(variant.kernels, **needs):
            raise InputError(f"variant: {reason}")
        network = self._fitting_network(variant)
        parts = {**self._parts(), "network": network, "kernels": variant.kernels}
        if self.electric_field:
            convention = self.options.fieldConvention
            model: Any = ModelInField(convention=convention, **self._physical_parts, **parts)
        else:
            model = SpecializedModel(**parts)
        if self.geometry is not None:
            model = self.geometry.around(model, in_field=self.electric_field)
        model = model.eval().to(self.device)
        if variant.block_elements is not None:
            limit_blocks(model, [variant.block_elements] * 2)
        elif self.for_gpu:
            fit_blocks(model, self.device)
        return model

    def response(self) -> ResponseModule:
        """Latents and Born effective charges, with network and kernel of the last `model`."""
        response = ResponseModule(**self._physical_parts, **self._parts())
        return response.eval().to(self.device)

    @cached_property
    def physical_charges(self) -> PhysicalCharges:
        """From latent to physical charges; warns once if their sign is not known."""
        if self.surroundings is not None:
            raise InputError(
                "surroundings: expected none for an electric response, got "
                f"{len(self.surroundings.charges)} MM charges; make a SystemModel of the ML atoms "
                "alone"
            )
        check_single_charge(self.artifact, "electric response")
        sign = self.artifact.metadata["charge_sign"]
        if sign is None:
            logger.warning(
                "%s does not state the sign of its charges (charge_sign): all dipoles and Born "
                "effective charges may have the wrong sign",
                self.artifact.path,
            )
        return PhysicalCharges(self.artifact.canonical.les, sign or 1)

    @property
    def _physical_parts(self) -> dict[str, Any]:
        with_moments = self.artifact.layout is not None
        return {"physical": self.physical_charges, "with_moments": with_moments}

    def _parts(self) -> dict[str, Any]:
        buffers = self._sizes
        return {
            "electrostatics": self._electrostatics,
            "network": self.network,
            "species": self._species,
            "order": self._order,
            "periodic": self.periodic,
            "ranges": buffers.ranges,
            "capacity": buffers.capacity,
            "trim": not self._is_static,
            "kernels": self._network_of.kernels,
            "grid": buffers.grid,
            "num_others": len(self.surroundings.charges) if self.surroundings else 0,
        }

    def _fitting_network(self, variant: Variant) -> Any:
        """The network of a variant: `network`, unless it is for a GPU alone."""
        built_for = _built_for(variant)
        if variant.kernels == "triton":
            network = self._build_network(variant)
        else:
            if self.network is None or built_for != self._network_of:
                self.network, self._network_of = self._build_network(variant), built_for
            network = self.network
        if self._sizes.inner_slots:
            # Without static shapes as many as each structure needs.
            network.reserve(self._sizes.inner_slots if self._is_static else 0)
        return network

    def _build_network(self, variant: Variant) -> Any:
        form = Form(
            self._dtype,
            exact_radial=self.options.precision == "double",
            few_kernels=variant.few_kernels,
            kernels=variant.kernels,
        )
        canonical = self.artifact.canonical
        return build_network(canonical, self._present, form, conditions=self._conditions).eval()

    def _build_electrostatics(self, buffers: Buffers) -> nn.Module:
        """The model's own electrostatics, among MM charges if there are any."""
        cell = None if buffers.cell is None else torch.from_numpy(buffers.cell)
        les, around = self.artifact.canonical.les, self.surroundings
        margin = BOX_GROWTH if self.periodic else 1.0
        device = "cuda" if self.for_gpu else "cpu"
        sums: dict[str, Any] = {
            "les": les,
            "periodic": self.periodic and (around is None or around.images == "native"),
            "cell": cell,
            "dtype": self._dtype,
            "num_atoms": len(self._species),
            "options": self.options.ewald_options,
            "margin": margin,
            "device": device,
        }
        own = electrostatics_for(self.artifact.layout, **sums)
        if around is None:
            return own
        return around.embed(
            own,
            self._order,
            cell,
            width=float(les["sigma"]),
            dtype=self._dtype,
            margin=margin,
            device=device,
        )


def _built_for(variant: Variant) -> Variant:
    """What a network depends on; runner, graph and threads are for others."""
    return replace(variant, runner="torchscript", graph=False, threads=None)
