"""One artifact specialised to one system: all that force backends and the ASE calculator see.

Numbers, periodicity, box and capacities are fixed here, so that everything that runs per step has
static shapes. What does not fit any more is reported by a status, never truncated.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from openmm_les.arrays import FloatArray
from openmm_les.artifact import Artifact
from openmm_les.electrostatics import EwaldOptions, build_electrostatics
from openmm_les.electrostatics.cell import lies_on_cutoff
from openmm_les.electrostatics.embedding import Surroundings
from openmm_les.errors import InputError
from openmm_les.evaluation.assembly import SpecializedModel, order_by_species
from openmm_les.evaluation.capacity import BOX_GROWTH, Buffers, checked_cell
from openmm_les.evaluation.diagnosis import failure
from openmm_les.evaluation.engines.arithmetic import as_written
from openmm_les.evaluation.engines.compiled import CompiledModule
from openmm_les.evaluation.engines.evaluator import Evaluator, Module
from openmm_les.evaluation.engines.torchscript import script
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.response import Response
from openmm_les.evaluation.response.field import ModelInField
from openmm_les.evaluation.response.module import ResponseModule
from openmm_les.evaluation.response.polarization import PhysicalCharges
from openmm_les.evaluation.status import STATUS_BOX, STATUS_OVERFLOW
from openmm_les.networks import build_network
from openmm_les.networks.blocks.blocking import fit_blocks
from openmm_les.processes.forks import check_threads
from openmm_les.processes.threads import Threads

logger = logging.getLogger(__name__)

#: Buffers made for a structure fit it; more attempts than two would be an error of ours.
_ATTEMPTS = 3
#: Systems with at most this many pair slots are bound by launches on a GPU (an estimate).
_FEW_PAIRS = 2**14
#: Boxes whose edges were warned of, and how much longer edges are suggested.
_told_edges: set[tuple[float, ...]] = set()
_ELSEWHERE = 1.002
#: Pair slots beyond which nothing is compiled for a CPU: hundreds of blocks would take an hour.
_MOST_PAIRS_COMPILED = 2**14


@dataclass(frozen=True)
class Evaluation:
    """Results for one structure, float64 in the order of the given atoms.

    Attributes:
        energy: interaction energy, without isolated-atom references [eV].
        forces: shape (n, 3) [eV/A].
        charges: latent charges with the model's own sign, 0 for MM charges, shape (n,) [e].
        virial: dE/dstrain, shape (3, 3) [eV].
        les_energy: the part of `energy` that latent charges have, the LES sum of the model [eV];
            the rest is short-range. Among MM charges it includes the coupling to them, in an
            electric field the term -E mu.
    """

    energy: float
    forces: FloatArray
    charges: FloatArray
    virial: FloatArray
    les_energy: float


class SystemModel:
    """One artifact specialised to one system.

    Several threads may use it, one after the other. A pickle or a copy holds the arguments, the
    current box and the current capacity, and builds its own module.

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
        to_gpu: the module will be moved from the device to a GPU, as that of a TorchForce.
        static_shapes: the same work for every structure, as a CUDA graph needs; always on a GPU.
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
        to_gpu: bool = False,
        static_shapes: bool = False,
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
            "to_gpu": to_gpu,
            "static_shapes": static_shapes,
        }
        self.artifact = artifact
        self.ewald = self.options.ewald_options
        self.numbers = [int(z) for z in numbers]
        self.periodic = periodic
        self.surroundings = surroundings
        self._num_others = len(surroundings.charges) if surroundings else 0
        self.precision = self.options.precision
        self.device = torch.device(self.options.device or "cpu")
        if not self.numbers:
            raise InputError("atoms: expected at least one atom, got an empty list")
        check_elements(artifact, self.numbers)
        box = checked_cell(cell, artifact.cutoff) if periodic else None
        start = None if positions is None else self._checked_positions(positions)

        elements = sorted(set(self.numbers))
        known = {z: i for i, z in enumerate(artifact.elements)}
        canonical = artifact.canonical
        references = canonical.state["reference_energies"]
        self.reference_energy = float(references[[known[z] for z in self.numbers]].sum())
        self._dtype = torch.float32 if self.precision == "single" else torch.float64
        self._species = torch.tensor([elements.index(z) for z in self.numbers])
        self._for_gpu = self.device.type != "cpu" or to_gpu
        self._buffers = Buffers(
            len(self.numbers),
            artifact.cutoff,
            box,
            start,
            self.options.maxNeighbors,
            self._for_gpu,
            canonical.hyper.get("inner_cutoff"),
        )
        self._present = [known[z] for z in elements]
        self._network: Any = None
        self._few_kernels = False
        self._static_shapes = (
            self.device.type != "cpu" or static_shapes or self.options.engine == "compile"
        )
        self._told_difference = False
        num_positions = len(self.numbers) + self._num_others
        self._in_field = electric_field
        if electric_field:
            check_sign(artifact)
        further = [(3,)] if electric_field else []
        self._response_threads = Threads(self.device)
        graphs = self.options.cudaGraphs
        self._evaluator = Evaluator(num_positions, self.device, graphs, further)
        self.module = self._build()
        if box is not None and self.ewald.cutoff == "hard":
            _warn_of_edges(box, float(canonical.les["dl"]))

    def __reduce__(self) -> tuple[Any, ...]:
        options = replace(self.options, maxNeighbors=self.capacity)
        make = partial(SystemModel, cell=self.cell, **self._arguments)
        return make, (self.artifact, self.numbers, options)

    def _checked_positions(self, positions: npt.ArrayLike) -> FloatArray:
        array = np.asarray(positions, dtype=np.float64)
        number = len(self.numbers) + self._num_others
        if array.shape != (number, 3):
            raise InputError(f"positions: expected shape ({number}, 3), got {array.shape}")
        return array

    @property
    def capacity(self) -> int:
        """Slots for each atom's neighbours."""
        return self._buffers.capacity

    @property
    def cell(self) -> FloatArray | None:
        """The box that the buffers are made for; None if not periodic."""
        return self._buffers.cell

    def _build(self) -> "torch.jit.ScriptModule":
        cell = None if self.cell is None else torch.from_numpy(self.cell)
        electrostatics = self._electrostatics(cell)
        self._fit_network()
        if self._buffers.inner_slots:
            # Else as many as each structure needs.
            self._network.reserve(self._buffers.inner_slots if self._static_shapes else 0)
        model: SpecializedModel
        if self._in_field:
            model = ModelInField(electrostatics, self._physical, **self._system())
        else:
            model = SpecializedModel(electrostatics, **self._system())
        model = model.eval().to(self.device)
        if self._for_gpu:
            fit_blocks(model, self.device)
        scripted = script(model)
        compiled = self.options.engine == "compile"
        self._evaluator.load(
            self._compiled(model.evaluate, scripted.evaluate) if compiled else scripted.evaluate
        )
        self._kernel = electrostatics
        self._response_module: torch.jit.ScriptModule | None = None
        return scripted

    def _fit_network(self) -> None:
        """Build the network in the variant for the present capacity, if it is not that one."""
        few = self._for_gpu and len(self.numbers) * self.capacity <= _FEW_PAIRS
        if self._network is not None and few == self._few_kernels:
            return
        self._few_kernels = few
        network = build_network(
            self.artifact.canonical,
            self._present,
            dtype=self._dtype,
            exact_radial=self.precision == "double",
            fold=True,
            few_kernels=few,
        )
        self._network = network.eval()

    def _system(self) -> dict[str, Any]:
        """What the modules of this system have in common, with buffers as they are now."""
        return {
            "network": self._network,
            "species": self._species,
            "periodic": self.periodic,
            "ranges": self._buffers.ranges,
            "capacity": self.capacity,
            "trim": not self._static_shapes,
            "grid": self._buffers.grid,
            "num_others": self._num_others,
        }

    def _electrostatics(self, cell: torch.Tensor | None) -> nn.Module:
        """The model's own electrostatics, among MM charges if there are any."""
        les = self.artifact.canonical.les
        around = self.surroundings
        margin = BOX_GROWTH if self.periodic else 1.0
        device = "cuda" if self._for_gpu else "cpu"
        own = build_electrostatics(
            les,
            self.periodic and (around is None or around.images == "native"),
            cell,
            self._dtype,
            num_atoms=len(self.numbers),
            options=self.ewald,
            margin=margin,
            device=device,
        )
        if around is None:
            return own
        return around.embed(
            own,
            order_by_species(self._species),
            cell,
            width=float(les["sigma"]),
            dtype=self._dtype,
            margin=margin,
            device=device,
        )

    def _compiled(self, model: Module, scripted: Module) -> Module:
        """The compiled method; on a CPU every block of a large system would be compiled anew."""
        if self.device.type == "cpu" and len(self.numbers) * self.capacity > _MOST_PAIRS_COMPILED:
            logger.warning(
                "engine='compile' is for at most %d atoms with %d neighbours each on a CPU, using "
                "TorchScript",
                _MOST_PAIRS_COMPILED // self.capacity,
                self.capacity,
            )
            return scripted
        return CompiledModule(model, scripted)

    def evaluate(
        self,
        positions: npt.ArrayLike,
        cell: npt.ArrayLike | None = None,
        electric_field: npt.ArrayLike | None = None,
    ) -> Evaluation:
        """Energy and forces of a structure; capacities grow where the structure needs it.

        Args:
            positions: shape (n, 3) [A]; atoms may lie outside the box, those among MM charges in
                one piece.
            cell: lattice vectors in rows, shape (3, 3) [A], for a periodic system; by default that
                of construction.
            electric_field: shape (3,) [V/A], for a model that was made for one; by default zero.
                The energy of an open system then has the term -E mu, with the dipole of `response`.
                A periodic system feels forces, without a term in its energy and its virial.

        Raises:
            InputError: wrong shapes, a box too small, a field that the model was not made for.
            SimulationError: a structure without a valid energy.
        """
        array, box = self._checked_structure(positions, cell)
        field = self._checked_field(electric_field)
        with self._lock:
            result = Evaluation(*self._run(self._evaluator, array, box, *field))
            if self.ewald.cutoff == "smooth" and not self._told_difference:
                self._told_difference = True
                n = len(self.numbers)
                self._tell_difference(result.charges[:n], array[:n], box)
        return result

    def response(self, positions: npt.ArrayLike, cell: npt.ArrayLike | None = None) -> Response:
        """Charges, dipole and Born effective charges of a structure; capacities grow as needed.

        It takes the network forward once and back three times, six times if periodic, by the
        script: neither `engine` nor CUDA graphs are used. Where the model does not state the sign
        of its charges, the results have the model's own, which may be the wrong one.

        Args:
            positions: shape (n, 3) [A]; atoms may lie outside the box.
            cell: lattice vectors in rows, shape (3, 3) [A], for a periodic system; by default that
                of construction.

        Raises:
            InputError: wrong shapes, a box too small, MM charges around the system.
            SimulationError: a structure that is not valid.
        """
        array, box = self._checked_structure(positions, cell)
        with self._lock:
            charges, born, les_energy = self._run(self._respond, array, box)
        dipole = None if self.periodic else charges @ array
        return Response(charges, dipole, born, float(les_energy))

    def physical_charges(self, latent: npt.ArrayLike) -> FloatArray:
        """Charges that dipoles are made of, as in `response`, from those of an `Evaluation`.

        Args:
            latent: shape (n,) [e].

        Returns:
            Shape (n,) [e].

        Raises:
            InputError: MM charges around the system.
        """
        charges = torch.as_tensor(np.asarray(latent, dtype=np.float64))
        return np.asarray(self._physical.forward(charges))

    @cached_property
    def _physical(self) -> PhysicalCharges:
        """From latent to physical charges; says once if their sign is not known."""
        if self.surroundings is not None:
            raise InputError(
                "surroundings: expected none for an electric response, got "
                f"{self._num_others} MM charges; make a SystemModel of the ML atoms alone"
            )
        sign = self.artifact.metadata["charge_sign"]
        if sign is None:
            logger.warning(
                "%s does not state the sign of its charges (charge_sign): dipoles and Born "
                "effective charges may have the wrong one, all of them",
                self.artifact.path,
            )
        return PhysicalCharges(self.artifact.canonical.les, sign or 1)

    def _respond(self, positions: FloatArray, cell: FloatArray) -> tuple[Any, ...]:
        """Results of the response module and its status."""
        if self._response_module is None:
            response = ResponseModule(self._kernel, self._physical, **self._system()).eval()
            self._response_module = script(response.to(self.device))
        with torch.inference_mode(), as_written():
            inputs = [torch.tensor(array, device=self.device) for array in (positions, cell)]
            evaluate = self._response_module.evaluate
            *results, status = self._response_threads.run(lambda: evaluate(*inputs))
        return *(result.cpu().numpy() for result in results), int(status)

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
        """What the module takes for a field: nothing, if it was not made for one."""
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

    def _run(
        self,
        module: Callable[..., tuple[Any, ...]],
        positions: FloatArray,
        cell: FloatArray,
        *further: FloatArray,
    ) -> tuple[Any, ...]:
        """Results without their status, after growing the buffers until the structure fits."""
        check_threads()
        mendable = STATUS_OVERFLOW | STATUS_BOX
        bits = 0
        for _ in range(_ATTEMPTS):
            *results, bits = module(positions, cell, *further)
            if bits == 0:
                return tuple(results)
            if bits & ~mendable:
                break
            self._buffers.grow(bits, positions, cell if self.periodic else None)
            self.module = self._build()
        atoms = positions[: len(self.numbers)]
        raise failure(bits & ~mendable or bits, atoms, cell if self.periodic else None)

    def _tell_difference(
        self, charges: FloatArray, positions: FloatArray, cell: FloatArray
    ) -> None:
        """Say what the smooth cutoff, with which no model was trained, changes."""
        structure = [torch.tensor(array) for array in (charges, positions, cell)]
        energies = {}
        for cutoff in ("smooth", "hard"):
            ewald = build_electrostatics(
                self.artifact.canonical.les,
                True,
                structure[2],
                torch.float64,
                num_atoms=len(self.numbers),
                options=EwaldOptions("direct", cutoff=cutoff),
            )
            energies[cutoff] = float(ewald(*structure)[0])
        difference = energies["smooth"] - energies["hard"]
        logger.warning(
            "lesCutoff='smooth' changes the energy of this structure by %+.6f eV (%+.3f meV per "
            "atom) against the model as it was trained",
            difference,
            1e3 * difference / len(self.numbers),
        )


def check_elements(artifact: Artifact, numbers: Sequence[int]) -> None:
    """Refuses elements the model was not trained for.

    Raises:
        InputError: names the elements and the first atoms that have them.
    """
    unknown = sorted(set(numbers) - set(artifact.elements))
    if not unknown:
        return
    atoms = [i for i, z in enumerate(numbers) if z in set(unknown)]
    listed = ", ".join(map(str, atoms[:5])) + (", ..." if len(atoms) > 5 else "")
    raise InputError(
        f"atoms: the model knows {_symbols(artifact.elements)}, but the structure has "
        f"{_symbols(unknown)} (atoms {listed})"
    )


def check_sign(artifact: Artifact) -> None:
    """Refuses a model in an electric field if the sign of its charges is not known.

    Raises:
        InputError: it is not.
    """
    if artifact.metadata["charge_sign"] is None:
        raise InputError(
            f"electricField: {artifact.path} does not state the sign of its latent charges "
            "(charge_sign), without which a field might push where it should pull"
        )


def _warn_of_edges(cell: FloatArray, dl: float) -> None:
    """Say once of a box that its stress is no difference of energies."""
    edges = tuple(float(edge) for edge in np.linalg.norm(cell, axis=1))
    if edges in _told_edges or not lies_on_cutoff(torch.from_numpy(cell), dl):
        return
    _told_edges.add(edges)
    logger.warning(
        "the edges of the box (%s A) put reciprocal vectors on the cutoff of the model (dl = %g "
        "A): no matter at constant volume, but a pressure from differences of energies is wrong "
        "there; for barostats, variable cells and equations of state start from other edges, such "
        "as %.3f A in place of %.3f A",
        ", ".join(f"{edge:.3f}" for edge in edges),
        dl,
        _ELSEWHERE * edges[0],
        edges[0],
    )


def _symbols(numbers: Sequence[int]) -> str:
    from openmm.app import Element

    def symbol(z: int) -> str:
        try:
            return str(Element.getByAtomicNumber(z).symbol)
        except KeyError:
            return f"atomic number {z}"

    return ", ".join(symbol(z) for z in numbers)
