"""One artifact specialised to one system: numbers, periodicity, box and capacities are fixed.

So everything that runs per step has static shapes. What does not fit any more is reported by a
status, never truncated.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.errors import InputError, one_line
from openmm_les.evaluation.builder import Geometry, ModuleBuilder
from openmm_les.evaluation.capacity import checked_cell
from openmm_les.evaluation.checks import (
    check_elements,
    warn_of_edges,
    warn_of_other_training,
    warn_of_smooth_cutoff,
)
from openmm_les.evaluation.diagnosis import failure
from openmm_les.evaluation.engines import decisions, tuning
from openmm_les.evaluation.engines.arithmetic import as_written
from openmm_les.evaluation.engines.evaluator import Evaluator
from openmm_les.evaluation.engines.runners import Module, can_compile, run_by
from openmm_les.evaluation.engines.torchscript import script
from openmm_les.evaluation.engines.trial import Structure, Task
from openmm_les.evaluation.engines.variant import Decision, Variant
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.response import PhysicalMoments, Response
from openmm_les.evaluation.results import Evaluation, LatentMoments, latent_moments
from openmm_les.evaluation.status import STATUS_BOX, STATUS_OVERFLOW
from openmm_les.processes.forks import check_threads
from openmm_les.processes.interrupts import stoppable
from openmm_les.processes.threads import Threads, is_measuring
from openmm_les.units import ANGSTROM_AND_EV, Units

__all__ = ["Evaluation", "SystemModel"]

logger = logging.getLogger(__name__)

#: Buffers made for a structure fit it; needing more attempts than two would be an error of ours.
_ATTEMPTS = 3


class SystemModel:
    """One artifact specialised to one system.

    Several threads may use it, one at a time. A pickle or a copy holds the arguments, the current
    box and the current capacity, and builds its own module.

    Args:
        artifact: the model.
        numbers: atomic numbers of the atoms, in the order of the system.
        options: how the model is computed.
        periodic: periodic in all three directions, or in none.
        cell: lattice vectors in rows, shape (3, 3) [A]; needed if periodic. The box may later
            change by 15 % of its volume; beyond that `evaluate` makes new buffers.
        positions: a structure from which the neighbour capacity is chosen, shape (n, 3) [A].
            Without one the capacity starts small and `evaluate` lets it grow.
        surroundings: MM charges around the system. Their positions then follow those of the atoms,
            wherever positions or forces are handed over.
        electric_field: `evaluate` takes an electric field, and `module` a third argument for it.
        geometry: finds the atoms of the model and the MM charges among other particles. Positions
            and forces are then those of the particles, and charges those of the atoms of the model,
            then zeros.
        to_gpu: the module will be moved from the device to a GPU, as that of a TorchForce.
        static_shapes: the same work for every structure, as a CUDA graph needs; always on a GPU.
        python_operators: the module may call operators that are written in Python; False if it will
            be saved.
        **changes: single options in place of those in `options`, such as ``precision="double"``.

    Attributes:
        module: the scripted `SpecializedModel`.
        options: how it is computed, with a device of this machine.
        reference_energy: sum of the isolated-atom energies [eV].

    Raises:
        InputError: an argument or element that cannot be used, or a box too small.
    """

    def __init__(
        self,
        artifact: Artifact,
        numbers: Sequence[int],
        options: EvaluationOptions | None = None,
        *,
        periodic: bool,
        cell: npt.ArrayLike | None = None,
        positions: npt.ArrayLike | None = None,
        surroundings: Surroundings | None = None,
        electric_field: bool = False,
        geometry: Geometry | None = None,
        to_gpu: bool = False,
        static_shapes: bool = False,
        python_operators: bool = True,
        **changes: Any,
    ) -> None:
        check_threads()
        self._lock = threading.RLock()
        options = (options or EvaluationOptions()).changed("SystemModel", changes)
        self.options = options.on_this_machine()
        self._arguments: dict[str, Any] = {
            "periodic": periodic,
            "surroundings": surroundings,
            "electric_field": electric_field,
            "geometry": geometry,
            "to_gpu": to_gpu,
            "static_shapes": static_shapes,
            "python_operators": python_operators,
        }
        self.artifact = artifact
        self.numbers = [int(z) for z in numbers]
        self.periodic = periodic
        check_elements(artifact, self.numbers)
        self._in_field = electric_field
        self._geometry = geometry
        self._num_positions = len(self.numbers)
        self._num_positions += len(surroundings.charges) if surroundings else 0
        if geometry is not None:
            self._num_positions = geometry.num_particles
        box = checked_cell(cell, artifact.cutoff) if periodic else None
        if positions is not None:
            positions = self._arranged(self._checked_positions(positions), box)
        self._builder = ModuleBuilder(artifact, self.numbers, self.options, **self._arguments)
        self._buffers = self._builder.buffers(box, positions)
        self.reference_energy = self._builder.reference_energy
        self._has_warned_of_cutoff = False
        self._device = self._builder.device
        self._response_threads = Threads(self._device)
        extra_inputs = [(3,)] if electric_field else []
        self._evaluator = Evaluator(
            self._num_positions,
            self._device,
            graphs=self.options.cudaGraphs,
            extra_inputs=extra_inputs,
            rows=self._builder.rows,
            num_latent=len(self.numbers),
            single=self.options.precision == "single",
            exact=self._exact_positions(),
        )
        self._decision: Decision | None = None
        self._pace = tuning.Pace()
        self.module = self._build()
        if box is not None and self.options.lesCutoff == "hard":
            warn_of_edges(box, float(artifact.canonical.les["dl"]))
        warn_of_other_training(artifact, box)

    def __reduce__(self) -> tuple[Any, ...]:
        options = replace(self.options, maxNeighbors=self.capacity)
        make = partial(SystemModel, cell=self.cell, **self._arguments)
        return make, (self.artifact, self.numbers, options)

    @property
    def capacity(self) -> int:
        """Slots for each atom's neighbours."""
        return self._buffers.capacity

    @property
    def cell(self) -> FloatArray | None:
        """The box that the buffers are made for; None if not periodic."""
        return self._buffers.cell

    @property
    def network(self) -> Any:
        """The network of the species present, not scripted."""
        return self._builder.network

    def evaluate(
        self,
        positions: npt.ArrayLike,
        cell: npt.ArrayLike | None = None,
        electric_field: npt.ArrayLike | None = None,
        *,
        units: Units = ANGSTROM_AND_EV,
    ) -> Evaluation:
        """Energy and forces of a structure; capacities grow where the structure needs it.

        Args:
            positions: shape (n, 3) [A]; atoms may lie outside the box, those among MM charges in
                one piece.
            cell: lattice vectors in rows, shape (3, 3) [A], for a periodic system; by default that
                of construction.
            electric_field: shape (3,) [V/A], for a model that was made for one; by default zero.
                The energy of an open system then has the terms -E mu - E A E / 2, with the dipole
                and the polarizability of `response`. A periodic system feels forces, without a
                term in its energy and its virial. Induced dipoles are those in the field.
                ``fieldConvention`` changes this.
            units: of positions and forces; everything else is in Angstrom, eV and e.

        Raises:
            InputError: wrong shapes, a box too small, a field that the model was not made for.
            SimulationError: a structure without a valid energy.
        """
        array, box = self._checked_structure(positions, cell)
        field = self._checked_field(electric_field)
        with self._lock:
            energy, forces, latents, virial, les_energy = self._step(array, box, field, units)
            moments, charges, layout = None, latents, self.artifact.layout
            if layout is not None:
                moments = latent_moments(latents, layout)
                charges, latents = moments.total_charges, latents[:, : layout.rows]
            result = Evaluation(energy, forces, charges, virial, les_energy, moments)
            if self.options.lesCutoff == "smooth" and not self._has_warned_of_cutoff:
                self._has_warned_of_cutoff = True
                n = len(self.numbers)
                atoms = self._arranged(array * units.length, box)[:n]
                warn_of_smooth_cutoff(self.artifact, latents[:n], atoms, box)
        return result

    def energy_and_forces(
        self,
        positions: npt.ArrayLike,
        cell: npt.ArrayLike | None = None,
        electric_field: npt.ArrayLike | None = None,
        *,
        units: Units = ANGSTROM_AND_EV,
    ) -> tuple[float, FloatArray]:
        """Energy [eV] and forces (n, 3) of `evaluate`, which a GPU sends without the rest."""
        if self.options.lesCutoff == "smooth" and not self._has_warned_of_cutoff:
            result = self.evaluate(positions, cell, electric_field, units=units)
            return result.energy, result.forces
        array, box = self._checked_structure(positions, cell)
        field = self._checked_field(electric_field)
        with self._lock:
            energy, forces, *_ = self._step(array, box, field, units, with_latents=False)
        return energy, forces

    @property
    def variant(self) -> Variant:
        """How the model is computed now; compiled code and graphs after the first evaluation."""
        dropped = self.dropped
        used = replace(self._variant, threads=self._evaluator.threads or self._variant.threads)
        if "replacement" in dropped:
            used = replace(used, runner="torchscript", kernels="torch")
        return replace(used, graph=used.graph and "graph" not in dropped)

    @property
    def seconds(self) -> float:
        """How long the last evaluation took [s]: on a CPU processor time of all threads.

        On a GPU it is the time there, from the copy of the positions to that of the results.
        """
        return self._evaluator.seconds

    @property
    def dropped(self) -> dict[str, str]:
        """Why parts of a variant that was wanted are not used, by the name of the part."""
        return self._evaluator.dropped

    @property
    def decision(self) -> Decision | None:
        """What was measured and chosen, if `variant` comes from that."""
        return self._decision

    def tune(
        self,
        positions: npt.ArrayLike,
        cell: npt.ArrayLike | None = None,
        electric_field: npt.ArrayLike | None = None,
        *,
        seconds: float = tuning.BUDGET_S,
        again: bool = False,
        candidates: Sequence[Variant] | None = None,
    ) -> Decision:
        """Measure which variant is fastest for this system, and use it from now on.

        With ``engine='auto'`` evaluations do this by themselves once they have taken a while. The
        decision is kept in the user's cache, where later processes find it; an earlier one is
        returned at once. While a run of this process goes on, whose results must not depend on what
        was measured, the model stays as it is.

        Args:
            positions: a structure, as for `evaluate`; another one near it is made from it.
            cell: as for `evaluate`.
            electric_field: as for `evaluate`.
            seconds: for everything together; candidates that are not reached are left out.
            again: measure even if there is a decision.
            candidates: what to try beside the plain module, and beside loops on a CPU. The
                decision is then not kept.

        Raises:
            InputError: see `evaluate`; also a variant that was given, or a model without a file.
            SimulationError: a structure without a valid energy, or nothing could be measured.
        """
        if self.options.engine != "auto" or self.options.variant is not None:
            raise InputError(
                f"engine: expected 'auto' without a variant, got engine={self.options.engine!r} "
                f"and variant={self.options.variant}; leave out both to measure"
            )
        if not self.artifact.sha256:
            raise InputError(f"modelPath: expected a file, {self.artifact.path} is not written yet")
        structure = self._checked_structure(positions, cell)
        field = self._checked_field(electric_field)
        with self._lock:
            self._run(self._evaluator, *structure, *field)  # makes buffers that fit
            return self._tune(self._structure(*structure, field), seconds, again, candidates)

    def response(self, positions: npt.ArrayLike, cell: npt.ArrayLike | None = None) -> Response:
        """Charges, dipole and Born effective charges of a structure; capacities grow as needed.

        The network runs forward once and back three times (six times if periodic, three times more
        with dipoles or polarizabilities), as TorchScript: neither `engine` nor CUDA graphs are
        used. There is no field. Where the model does not state the sign of its charges, the results
        have the model's own, which may be wrong.

        Args:
            positions: shape (n, 3) [A]; atoms may lie outside the box.
            cell: lattice vectors in rows, shape (3, 3) [A], for a periodic system; by default that
                of construction.

        Raises:
            InputError: wrong shapes, a box too small, MM charges around the system, a geometry,
                several latent charges for each atom.
            SimulationError: a structure that is not valid.
        """
        if self._geometry is not None:
            raise InputError(
                "geometry: expected none for an electric response; make a SystemModel of the atoms "
                "of the model alone"
            )
        array, box = self._checked_structure(positions, cell)
        with self._lock:
            latents, born, by_dipoles, les_energy = self._run(self._respond, array, box)
        if self.artifact.layout is None:
            charges = self.physical_charges(latents)
            dipole = None if self.periodic else charges @ array
            return Response(charges, dipole, born, float(les_energy))
        moments = latent_moments(latents.T, self.artifact.layout)
        physical = self.physical_moments(moments)
        has_dipoles = physical.dipoles is not None
        return Response(
            charges=physical.charges,
            dipole=None if self.periodic else physical.dipole(array),
            born_charges=born + by_dipoles if has_dipoles else born,
            les_energy=float(les_energy),
            dipoles=physical.dipoles,
            born_dipoles=by_dipoles if has_dipoles else None,
            polarizability=physical.polarizability,
            moments=moments,
        )

    def physical_charges(self, latent: npt.ArrayLike) -> FloatArray:
        """Charges [e] as in `response`, which dipoles are made of, from those of an `Evaluation`.

        Raises:
            InputError: MM charges around the system, or several latent charges for each atom.
        """
        charges = torch.as_tensor(np.asarray(latent, dtype=np.float64))
        return np.asarray(self._builder.physical_charges.forward(charges))

    def physical_moments(self, latent: LatentMoments) -> PhysicalMoments:
        """Moments of atoms as in `response`, from those of an `Evaluation`; without derivatives.

        Raises:
            InputError: MM charges around the system.
        """
        return self._builder.physical_charges.moments(latent)

    def _build(self) -> "torch.jit.ScriptModule":
        """Modules for the present buffers; the one for energies is loaded and returned."""
        self._builder.fit(self._buffers)
        self._variant = variant = self._chosen_variant()
        # What depends on the device, and on a compiler for it, is first compared with torch code.
        has_triton = variant.kernels == "triton"
        model = self._builder.model(replace(variant, kernels="torch") if has_triton else variant)
        scripted = script(model)

        def replacement() -> Module:
            other = self._builder.model(variant) if has_triton else model
            if variant.runner == "torchscript":
                module: Module = script(other).evaluate
                return module
            return run_by(variant.runner, other.evaluate)

        engine = self.options.engine
        self._evaluator.load(
            scripted.evaluate,
            replacement if has_triton or variant.runner != "torchscript" else None,
            graph=variant.graph,
            threads=variant.threads,
            what=f"engine={engine!r}" + (f" ({variant.name})" if engine == "auto" else ""),
        )
        self._response_module: torch.jit.ScriptModule | None = None
        return scripted

    def _chosen_variant(self) -> Variant:
        """How to compute modules for the present buffers."""
        options, builder = self.options, self._builder
        given: Variant | None = options.variant
        if given is not None:
            graph = given.graph and options.cudaGraphs is not False
            return replace(given, graph=graph).on(self._device.type)
        if options.engine == "compile" and can_compile(self._device, builder.pairs):
            return replace(builder.plain(), runner="compile")
        if options.engine != "auto":
            return builder.plain()
        self._decision = self._known_decision()
        return builder.usual() if self._decision is None else self._decision.variant

    def _known_decision(self) -> Decision | None:
        """The decision for the present buffers, or that for earlier ones if there is none."""
        if not is_measuring():
            return None
        system, known = self._system(), self._decision
        if known is not None and known.system == system:
            return known
        return decisions.find(system) or known

    def _system(self) -> dict[str, Any]:
        """What a decision holds for."""
        return {**decisions.machine(self._device), **self._builder.system()}

    def _tune(
        self,
        structure: Structure,
        seconds: float,
        again: bool = False,
        candidates: Sequence[Variant] | None = None,
    ) -> Decision:
        """Find the fastest variant, and use it where anything may be chosen."""
        make, arguments = self.__reduce__()
        beside = [self._builder.plain(), self._builder.usual()]
        others = self._builder.candidates() if candidates is None else candidates
        task = Task(
            make,
            arguments,
            tuning.two_structures(structure),
            list(dict.fromkeys([*beside, *others])),
            torch.get_num_threads(),
            seconds,
        )
        keep = candidates is None
        decision = self._decision = tuning.decide(task, self._system(), again=again, keep=keep)
        self.module = self._build()
        return decision

    def _tune_quietly(self, structure: Structure) -> None:
        try:
            system = self._system()
            if tuning.is_first_attempt(system) or decisions.find(system):
                self._tune(structure, tuning.BUDGET_S)
        except Exception as error:  # a run that works goes on
            logger.warning("engine='auto': goes on as before, since %s", one_line(error))

    @property
    def _may_tune(self) -> bool:
        """Whether evaluations may look for a faster variant by themselves."""
        is_open = self.options.engine == "auto" and self.options.variant is None
        has_file = bool(self.artifact.sha256)
        return is_open and has_file and self._decision is None and is_measuring()

    def _respond(self, positions: FloatArray, cell: FloatArray) -> tuple[Any, ...]:
        if self._response_module is None:
            self._response_module = script(self._builder.response())
        with stoppable(), torch.inference_mode(), as_written():
            inputs = [torch.tensor(array, device=self._device) for array in (positions, cell)]
            module = self._response_module
            *results, status = self._response_threads.run(lambda: module(*inputs))
        return *(result.cpu().numpy() for result in results), int(status)

    def _exact_positions(self) -> list[int] | None:
        """Those that go to a GPU in float64; None if these are many, or rounding would be seen."""
        if self._geometry is None or self.options.precision == "double":
            return None
        exact = self._geometry.exact_particles
        return exact if 2 * len(exact) < self._num_positions else None

    def _checked_positions(self, positions: npt.ArrayLike) -> FloatArray:
        array = np.asarray(positions, dtype=np.float64)
        if array.shape != (self._num_positions, 3):
            raise InputError(
                f"positions: expected shape ({self._num_positions}, 3), got {array.shape}"
            )
        return array

    def _arranged(self, positions: FloatArray, cell: FloatArray | None) -> FloatArray:
        """Positions of the atoms of the model, then those of MM charges."""
        if self._geometry is None:
            return positions
        return np.asarray(self._geometry.arrange(positions, cell).positions)

    def _checked_structure(
        self, positions: npt.ArrayLike, cell: npt.ArrayLike | None
    ) -> tuple[FloatArray, FloatArray]:
        array = self._checked_positions(positions)
        if self.cell is None:
            return array, np.zeros((3, 3))
        box = self.cell if cell is None else np.asarray(cell, dtype=np.float64)
        if box.shape != (3, 3):
            raise InputError(f"cell: expected box vectors of shape (3, 3), got {box.shape}")
        return array, box

    def _checked_field(self, field: npt.ArrayLike | None) -> list[FloatArray]:
        """Inputs of the module beyond positions and cell."""
        if not self._in_field:
            if field is not None:
                raise InputError(
                    "electric_field: expected none, since this model was made without "
                    f"electric_field=True, got {field!r}"
                )
            return []
        array = np.zeros(3) if field is None else np.asarray(field, dtype=np.float64)
        if array.shape != (3,):
            raise InputError(f"electric_field: expected three components [V/A], got {field!r}")
        return [array]

    def _structure(
        self, positions: FloatArray, cell: FloatArray, field: list[FloatArray]
    ) -> Structure:
        """The arguments of `evaluate`."""
        return positions, cell if self.periodic else None, field[0] if field else None

    def _step(
        self,
        positions: FloatArray,
        cell: FloatArray,
        field: list[FloatArray],
        units: Units,
        with_latents: bool = True,
    ) -> tuple[Any, ...]:
        """Results of the evaluator, which count for when to measure variants."""
        begin = time.perf_counter()
        evaluate = partial(self._evaluator, units=units, with_latents=with_latents)
        results = self._run(evaluate, positions, cell, *field, length=units.length)
        if self._may_tune and self._pace.is_time_to_tune(time.perf_counter() - begin):
            self._tune_quietly(self._structure(positions * units.length, cell, field))
        return results

    def _run(
        self,
        module: Callable[..., tuple[Any, ...]],
        positions: FloatArray,
        cell: FloatArray,
        *extra_inputs: FloatArray,
        length: float = 1.0,
    ) -> tuple[Any, ...]:
        """Results without their status, after growing the buffers until the structure fits.

        Positions are in units of `length` [A].
        """
        check_threads()
        if self._decision is not None and not is_measuring():
            self.module = self._build()
        growable = STATUS_OVERFLOW | STATUS_BOX
        bits = 0
        for _ in range(_ATTEMPTS):
            *results, bits = module(positions, cell, *extra_inputs)
            if bits == 0:
                return tuple(results)
            if bits & ~growable:
                break
            arranged = self._arranged(positions * length, cell)
            self._buffers.grow(bits, arranged, cell if self.periodic else None)
            self.module = self._build()
        atoms = self._arranged(positions * length, cell)[: len(self.numbers)]
        raise failure(bits & ~growable or bits, atoms, cell if self.periodic else None)
