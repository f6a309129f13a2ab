"""One artifact specialised to one system: all that force backends and the ASE calculator see.

Numbers, periodicity, box and capacities are fixed here, so that everything that runs per step has
static shapes. What does not fit any more is reported by a status, never truncated.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

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
from openmm_les.evaluation.engines.compiled import CompiledModule, check_engine
from openmm_les.evaluation.engines.evaluator import Evaluator, Module
from openmm_les.evaluation.engines.torchscript import script
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


class Geometry(Protocol):
    """From particles to the positions that a model among MM charges sees."""

    num_particles: int

    def around(self, model: nn.Module, *, in_field: bool) -> nn.Module:
        """The module for particles, from the one for the positions that the model sees."""

    def arrange(self, positions: FloatArray, cell: FloatArray | None) -> Any:
        """What has these as ``positions``, a tensor."""


class SystemModel:
    """One artifact specialised to one system.

    Several threads may use it, one after the other. A pickle or a copy holds the arguments, the
    current box and the current capacity, and builds its own module.

    Args:
        artifact: the model.
        numbers: atomic numbers of the atoms, in the order of the system.
        periodic: periodic in all three directions, or in none.
        cell: lattice vectors in rows, shape (3, 3) [A]; needed if periodic. The box may later
            change by 15 % of its volume; beyond that `evaluate` makes new buffers.
        positions: a structure from which the neighbour capacity is chosen, shape (n, 3) [A].
            Without one the capacity starts small and `evaluate` lets it grow.
        precision: ``"single"``, or ``"double"`` (exact radial networks instead of tables).
        device: where to run, such as ``"cpu"`` or ``"cuda:0"``.
        max_neighbors: slots for each atom's neighbours instead of a choice from `positions`.
        ewald: how the periodic sum is computed; by default as it is fastest.
        engine: what runs the module in `evaluate`: ``"torchscript"``, or ``"compile"`` for code
            that torch.compile makes.
        to_gpu: the module will be moved from `device` to a GPU, as that of a TorchForce.
        static_shapes: the same work for every structure, as a CUDA graph needs; always on a GPU.
        cuda_graphs: `evaluate` replays a CUDA graph: ``"auto"`` (on a GPU, if it can), True or
            False; see `openmm_les.evaluation.engines.evaluator.Evaluator`.
        surroundings: MM charges around the system. Their positions then follow those of the atoms,
            wherever positions or forces are handed over.
        electric_field: `evaluate` takes an electric field, and `module` a third argument for it.
        geometry: where the atoms of the model and the MM charges are, from particles, such as
            `openmm_les.plugin.mixed.geometry.RegionGeometry`. Positions and forces are then those
            of its particles, and charges those of the atoms of the model, then zeros.

    Attributes:
        module: the scripted `SpecializedModel`.
        reference_energy: sum of the isolated-atom energies [eV].

    Raises:
        InputError: an argument or element that cannot be used, or a box too small.
    """

    def __init__(
        self,
        artifact: Artifact,
        numbers: Sequence[int],
        *,
        periodic: bool,
        cell: npt.ArrayLike | None = None,
        positions: npt.ArrayLike | None = None,
        precision: str = "single",
        device: "str | torch.device" = "cpu",
        max_neighbors: int | None = None,
        ewald: EwaldOptions | None = None,
        engine: str = "torchscript",
        to_gpu: bool = False,
        static_shapes: bool = False,
        cuda_graphs: "bool | str" = "auto",
        surroundings: Surroundings | None = None,
        electric_field: bool = False,
        geometry: "Geometry | None" = None,
    ) -> None:
        check_threads()
        check_engine(engine)
        self._lock = threading.RLock()
        self._options: dict[str, Any] = {
            "precision": precision,
            "device": str(device),
            "ewald": ewald,
            "engine": engine,
            "to_gpu": to_gpu,
            "static_shapes": static_shapes,
            "cuda_graphs": cuda_graphs,
            "surroundings": surroundings,
            "electric_field": electric_field,
            "geometry": geometry,
        }
        self._engine = engine
        self.artifact = artifact
        self.ewald = ewald or EwaldOptions()
        self.numbers = [int(z) for z in numbers]
        self.periodic = periodic
        self.surroundings = surroundings
        self._num_others = len(surroundings.charges) if surroundings else 0
        self._geometry = geometry
        self._num_positions = (
            geometry.num_particles if geometry else len(self.numbers) + self._num_others
        )
        self.precision = precision
        self.device = torch.device(device)
        self._check(precision)
        box = checked_cell(cell, artifact.cutoff) if periodic else None
        start = None
        if positions is not None:
            start = self._arranged(self._checked_positions(positions), box)

        elements = sorted(set(self.numbers))
        known = {z: i for i, z in enumerate(artifact.elements)}
        canonical = artifact.canonical
        references = canonical.state["reference_energies"]
        self.reference_energy = float(references[[known[z] for z in self.numbers]].sum())
        self._dtype = torch.float32 if precision == "single" else torch.float64
        self._species = torch.tensor([elements.index(z) for z in self.numbers])
        self._for_gpu = self.device.type != "cpu" or to_gpu
        self._buffers = Buffers(
            len(self.numbers),
            artifact.cutoff,
            box,
            start,
            _checked_slots(max_neighbors),
            self._for_gpu,
            canonical.hyper.get("inner_cutoff"),
        )
        self._present = [known[z] for z in elements]
        self._network: Any = None
        self._few_kernels = False
        self._static_shapes = self.device.type != "cpu" or static_shapes or engine == "compile"
        self._told_difference = False
        self._in_field = electric_field
        if electric_field:
            check_sign(artifact)
        further = [(3,)] if electric_field else []
        self._response_threads = Threads(self.device)
        self._evaluator = Evaluator(self._num_positions, self.device, cuda_graphs, further)
        self.module = self._build()
        if box is not None and self.ewald.cutoff == "hard":
            _warn_of_edges(box, float(canonical.les["dl"]))

    def __reduce__(self) -> tuple[Any, ...]:
        now: dict[str, Any] = {
            "periodic": self.periodic,
            "cell": self.cell,
            "max_neighbors": self.capacity,
        }
        return partial(SystemModel, **now, **self._options), (self.artifact, self.numbers)

    def _check(self, precision: str) -> None:
        if not self.numbers:
            raise InputError("atoms: expected at least one atom, got an empty list")
        check_elements(self.artifact, self.numbers)
        if precision not in ("single", "double"):
            raise InputError(f"precision: expected 'single' or 'double', got {precision!r}")

    def _checked_positions(self, positions: npt.ArrayLike) -> FloatArray:
        array = np.asarray(positions, dtype=np.float64)
        if array.shape != (self._num_positions, 3):
            expected = (self._num_positions, 3)
            raise InputError(f"positions: expected shape {expected}, got {array.shape}")
        return array

    def _arranged(self, positions: FloatArray, cell: FloatArray | None) -> FloatArray:
        """Positions of the atoms of the model, then those of MM charges."""
        if self._geometry is None:
            return positions
        return np.asarray(self._geometry.arrange(positions, cell).positions)

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
        model: Any
        if self._in_field:
            model = ModelInField(electrostatics, self._physical, **self._system())
        else:
            model = SpecializedModel(electrostatics, **self._system())
        if self._geometry is not None:
            model = self._geometry.around(model, in_field=self._in_field)
        model = model.eval().to(self.device)
        if self._for_gpu:
            fit_blocks(model, self.device)
        scripted = script(model)
        compiled = self._engine == "compile"
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
                self._tell_difference(result.charges[:n], self._arranged(array, box)[:n], box)
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
        if self._geometry is not None:
            raise InputError(
                "geometry: expected none for an electric response; make a SystemModel of the atoms "
                "of the model alone"
            )
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
            box = cell if self.periodic else None
            self._buffers.grow(bits, self._arranged(positions, box), box)
            self.module = self._build()
        atoms = self._arranged(positions, cell)[: len(self.numbers)]
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


def _checked_slots(given: object) -> int | None:
    """The option maxNeighbors as a number that TorchScript knows, or None."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise InputError(f"maxNeighbors: expected a positive integer, got {given!r}")
    return int(given)


def _symbols(numbers: Sequence[int]) -> str:
    from openmm.app import Element

    def symbol(z: int) -> str:
        try:
            return str(Element.getByAtomicNumber(z).symbol)
        except KeyError:
            return f"atomic number {z}"

    return ", ".join(symbol(z) for z in numbers)
