"""LES through openmm-torch: positions stay on the device and no Python runs in a step."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Tuple

import openmm
import torch
from torch import Tensor, nn

from openmm_les.artifact import Artifact
from openmm_les.errors import InputError
from openmm_les.evaluation.engines.arithmetic import forbid_fusion
from openmm_les.evaluation.engines.torchscript import script
from openmm_les.evaluation.status import MESSAGES
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.plugin.forces import electric_field
from openmm_les.plugin.forces.options import ForceOptions
from openmm_les.plugin.forces.region import Region
from openmm_les.units import (
    ANGSTROM_PER_NM,
    FORCE_PER_EV_PER_ANGSTROM,
    KJ_PER_MOL_PER_EV,
    VOLT_PER_ANGSTROM_PER_VOLT_PER_NM,
)

#: How often openmm-torch calls a module before it records a CUDA graph.
_WARM_UP = 10
#: Atoms per cubic Angstrom: 0.10 to 0.12 in water, proteins and polymers, and head-room.
_DENSE = 0.15


def build(artifact: Artifact, region: Region, options: ForceOptions) -> openmm.Force:
    """A `TorchForce` for `region`; its force group is still the default.

    Its neighbour capacity cannot grow: it is `maxNeighbors`, or what dense organic matter needs.
    """
    import openmmtorch  # finds its libraries only after torch has been imported

    _load_kernels()
    graphs = options.cudaGraphs is True
    if graphs and options.field is not None:
        # openmm-torch passes parameters in new tensors, but a graph keeps the first ones.
        raise InputError(
            "cudaGraphs: a TorchForce cannot change electricField in a CUDA graph; leave "
            "cudaGraphs out, or use backend='pythonforce'"
        )
    model = SystemModel(
        artifact,
        region.numbers,
        replace(
            options.evaluation,
            device="cpu",
            engine="torchscript",
            variant=None,
            maxNeighbors=options.maxNeighbors or _usual_neighbors(artifact, region),
            cudaGraphs="auto",
        ),
        periodic=region.periodic,
        cell=region.cell,
        to_gpu=torch.cuda.is_available() or graphs,
        static_shapes=graphs,
        python_operators=False,
        electric_field=options.field is not None,
    )
    if torch.cuda.is_available() or graphs:
        forbid_fusion()
    offset = model.reference_energy if options.returnEnergyType == "energy" else 0.0
    particles = None if region.is_whole_system else region.particles
    kind: type[_TorchForceModule] = PeriodicTorchForce if region.periodic else OpenTorchForce
    if options.field is not None:
        kind = PeriodicTorchForceInField if region.periodic else OpenTorchForceInField
    module = script(kind(model.module, particles, offset, _WARM_UP if graphs else 0))
    force = openmmtorch.TorchForce(module)
    force.setOutputsForces(True)
    for name, value in electric_field.defaults(options.field).items():
        force.addGlobalParameter(name, value)
    if graphs:  # which OpenMM's CUDA platform records, and others do not
        force.setProperty("useCUDAGraphs", "true")
        force.setProperty("CUDAGraphWarmupSteps", str(_WARM_UP))
    force.setUsesPeriodicBoundaryConditions(region.periodic)
    return force


@functools.cache
def _load_kernels() -> None:
    """Load the kernels that OpenMM could not load when it was imported before torch."""
    folder = os.environ.get("OPENMM_PLUGIN_DIR")
    if folder is None:
        folder = os.path.join(openmm.version.openmm_library_path, "plugins")
    loaded = {Path(library).name for library in openmm.pluginLoadedLibNames}
    for library in sorted(Path(folder).glob("*OpenMMTorch*")):
        if library.name not in loaded:
            # Those of platforms that this machine lacks fail again, as they should.
            with contextlib.suppress(openmm.OpenMMException):
                openmm.Platform.loadPluginLibrary(str(library))


def _usual_neighbors(artifact: Artifact, region: Region) -> int:
    """Neighbours in dense organic matter, since a TorchForce is made without a start structure."""
    dense = math.ceil(_DENSE * 4.0 / 3.0 * math.pi * artifact.cutoff**3)
    if region.periodic:
        return dense
    return max(1, min(dense, len(region.numbers) - 1))


class _TorchForceModule(nn.Module):
    """Translates between what openmm-torch calls and `SystemModel.module`.

    In a CUDA graph, recorded after `warm_up` calls, the script cannot read the status: once it is
    not 0, the energy is NaN and the forces are zero for good. NaN would become a large number in
    the fixed point forces of OpenMM on a GPU, whose integrators do not look at the energy.
    """

    def __init__(
        self,
        model: nn.Module,
        particles: Optional[Tuple[int, ...]],
        offset: float,
        warm_up: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.is_subset = particles is not None
        self.particles = nn.Buffer(torch.tensor(particles or (), dtype=torch.int64))
        self.offset = offset
        self.warm_up = warm_up
        self.calls = 0
        self.recorded_on = "cuda"  # only OpenMM's CUDA platform records, with positions there
        self.has_failed: Tensor = torch.zeros([], dtype=torch.bool)
        self.energy_out: Tensor = torch.zeros([])
        self.forces_out: Tensor = torch.zeros([])
        self.angstrom = ANGSTROM_PER_NM
        self.energy_unit = KJ_PER_MOL_PER_EV
        self.force_unit = FORCE_PER_EV_PER_ANGSTROM
        self.field_unit = VOLT_PER_ANGSTROM_PER_VOLT_PER_NM
        # A script can only look up its texts.
        self.problems: List[Tuple[int, str]] = list(MESSAGES.items())

    def evaluate(
        self, positions: Tensor, cell: Tensor, field: Optional[List[Tensor]] = None
    ) -> Tuple[Tensor, Tensor]:
        """Energy [kJ/mol] and forces [kJ/mol/nm] on all particles, from nanometers and V/nm."""
        with torch.no_grad():  # openmm-torch requests gradients although forces are an output
            chosen = positions.detach()
            if self.is_subset:
                chosen = chosen[self.particles]
            energy, forces, status = self.call(
                chosen.to(torch.float64) * self.angstrom,
                cell.to(torch.float64) * self.angstrom,
                field,
            )
            recorded = self.warm_up > 0 and positions.device.type == self.recorded_on
            if not recorded or self.calls < self.warm_up:
                self.stop_at(int(status))
            # The platform chooses the type of the positions and expects the same for forces.
            scaled = (forces * self.force_unit).to(positions.dtype)
            if self.is_subset:
                scaled = torch.zeros_like(positions).index_copy(0, self.particles, scaled)
            energy = (energy + self.offset) * self.energy_unit
            if recorded:
                self.calls += 1
                return self.keep(energy, scaled, status)
            return energy, scaled

    def call(
        self, positions: Tensor, cell: Tensor, field: Optional[List[Tensor]]
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Energy, forces and status of a model without a field."""
        energy, forces, _, _, status = self.model(positions, cell)
        return energy, forces, status

    def stop_at(self, status: int) -> None:
        if status != 0:
            message = ""
            for flag, text in self.problems:
                if (status & flag) != 0:
                    message = message + text + " "
            raise RuntimeError(message)

    def keep(self, energy: Tensor, forces: Tensor, status: Tensor) -> Tuple[Tensor, Tensor]:
        """Copy the results to fixed tensors; NaN and zero once a status was not 0.

        openmm-torch records one graph with forces and one without, and reads the results of both
        where the graph recorded last has put them.
        """
        if self.forces_out.dim() == 0:
            self.energy_out, self.forces_out = torch.zeros_like(energy), torch.zeros_like(forces)
            self.has_failed = status != 0
        self.has_failed.logical_or_(status != 0)
        energy = energy.masked_fill(self.has_failed, float("nan"))
        forces = forces.masked_fill(self.has_failed, 0.0)
        return self.energy_out.copy_(energy), self.forces_out.copy_(forces)


class PeriodicTorchForce(_TorchForceModule):
    """Called with positions [N, 3] and box vectors [3, 3], both in nanometers."""

    def forward(self, positions: Tensor, boxvectors: Tensor) -> Tuple[Tensor, Tensor]:
        return self.evaluate(positions, boxvectors)


class OpenTorchForce(_TorchForceModule):
    """Called with positions [N, 3] in nanometers."""

    def forward(self, positions: Tensor) -> Tuple[Tensor, Tensor]:
        return self.evaluate(
            positions, torch.zeros((3, 3), dtype=torch.float64, device=positions.device)
        )


class _TorchForceInField(_TorchForceModule):
    def call(
        self, positions: Tensor, cell: Tensor, field: Optional[List[Tensor]]
    ) -> Tuple[Tensor, Tensor, Tensor]:
        assert field is not None
        components = torch.stack(field).to(positions.device, torch.float64)
        energy, forces, _, _, status = self.model(positions, cell, components * self.field_unit)
        return energy, forces, status


class PeriodicTorchForceInField(_TorchForceInField):
    """`PeriodicTorchForce`, called with the three parameters of the field [V/nm] too."""

    def forward(
        self, positions: Tensor, boxvectors: Tensor, x: Tensor, y: Tensor, z: Tensor
    ) -> Tuple[Tensor, Tensor]:
        return self.evaluate(positions, boxvectors, [x, y, z])


class OpenTorchForceInField(_TorchForceInField):
    """`OpenTorchForce`, called with the three parameters of the field [V/nm] too."""

    def forward(self, positions: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tuple[Tensor, Tensor]:
        cell = torch.zeros((3, 3), dtype=torch.float64, device=positions.device)
        return self.evaluate(positions, cell, [x, y, z])
