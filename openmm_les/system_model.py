"""One artifact specialised to one system: all that force backends and the ASE calculator see.

Numbers, periodicity, box and capacities are fixed here, so that everything that runs per step has
static shapes. What does not fit any more is reported by a status, never truncated.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from openmm_les.artifact import Artifact
from openmm_les.cell_list import CellGrid, box_heights, choose_grid, grid_suffices
from openmm_les.coupling import Surroundings
from openmm_les.electrostatics import EwaldOptions, build_electrostatics
from openmm_les.electrostatics.cell import inverse_and_volume
from openmm_les.engine import CompiledModule, Module, check_engine
from openmm_les.errors import InputError, SimulationError
from openmm_les.evaluator import Evaluator
from openmm_les.neighbors import (
    image_offsets,
    image_range,
    images_suffice,
    largest_number_of_neighbors,
    neighbor_matrix,
)
from openmm_les.networks import build_network

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

STATUS_OVERFLOW = 1
STATUS_BOX = 2
STATUS_POSITIONS = 4
STATUS_COINCIDENT = 8
STATUS_RESULT = 16

_MESSAGES = {
    STATUS_POSITIONS: "positions or box vectors are NaN or infinite; the simulation is unstable "
    "(minimise first, or reduce the time step)",
    STATUS_COINCIDENT: "two atoms are at the same place; check the input structure",
    STATUS_OVERFLOW: "an atom has more neighbours than the neighbour matrix holds, or a region "
    "more atoms than the search for them looks at; raise the option maxNeighbors",
    STATUS_BOX: "the box has changed by more than the buffers made at the start allow (15 % of the "
    "volume); create the System again from the present box, or use backend='pythonforce', which "
    "makes new buffers by itself",
    STATUS_RESULT: "energy or forces are NaN or infinite; the structure is far outside what the "
    "model can describe",
}

#: A box may grow by this factor before the k-space buffers are outgrown (15 % of the volume).
_BOX_GROWTH = 1.15 ** (1 / 3)
#: A box may shrink to this fraction before the periodic images looked at are too few.
_BOX_SHRINKAGE = 0.85 ** (1 / 3)
#: Buffers made for a structure fit it; more attempts than two would be an error of ours.
_ATTEMPTS = 3
#: Systems with at most this many pair slots are bound by launches on a GPU (an estimate).
_FEW_PAIRS = 2**14
#: Pair slots beyond which nothing is compiled for a CPU: hundreds of blocks would take an hour.
_MOST_PAIRS_COMPILED = 2**14
#: Slots for the nearest neighbours, whose number fluctuates more, beyond what a structure needs.
_INNER_MARGIN = 1.25
#: Image ranges beyond this make the search absurdly slow: the box is wrong, or a supercell better.
_MAX_IMAGE_RANGE = 3


def describe_status(status: int) -> str:
    """What a status other than 0 means, most basic cause first."""
    return "; ".join(text for bit, text in _MESSAGES.items() if status & bit) or "no error"


@dataclass(frozen=True)
class Evaluation:
    """Results for one structure, float64 in the order of the given atoms.

    Attributes:
        energy: interaction energy, without isolated-atom references [eV].
        forces: shape (n, 3) [eV/A].
        charges: latent charges with the model's own sign, 0 for MM charges, shape (n,) [e].
        virial: dE/dstrain, shape (3, 3) [eV].
    """

    energy: float
    forces: FloatArray
    charges: FloatArray
    virial: FloatArray


class SpecializedModel(nn.Module):
    """Network, neighbours and electrostatics of one system; scripted before use.

    Args:
        network: short-range network of the species present.
        electrostatics: a kernel such as `DirectEwald`, or `EmbeddedElectrostatics`.
        species: species index of each atom, in the order of the system.
        periodic: whether the system is periodic.
        ranges: periodic images to look at along each axis.
        capacity: slots of the neighbour matrix.
        trim: leave out slots that a structure does not need (CPU; shapes then vary).
        grid: cells in which to search for neighbours; None compares every pair.
        num_others: positions after those of the atoms that only the electrostatics looks at.
    """

    grid: Optional[CellGrid]  # TorchScript would take it for a plain tuple

    def __init__(
        self,
        network: Any,
        electrostatics: Any,
        species: torch.Tensor,
        periodic: bool,
        ranges: Sequence[int],
        capacity: int,
        trim: bool,
        grid: Optional[CellGrid],
        num_others: int = 0,
    ) -> None:
        super().__init__()
        self.network: Any = network
        self.electrostatics: Any = electrostatics
        self.periodic = periodic
        self.capacity = capacity
        self.trim = trim
        self.grid = grid
        # TorchScript does not see constants of the module.
        self.overflow, self.box = STATUS_OVERFLOW, STATUS_BOX
        self.not_finite, self.coincident = STATUS_POSITIONS, STATUS_COINCIDENT
        self.no_result = STATUS_RESULT
        self.cutoff: float = network.cutoff
        self.num_others = num_others
        order = order_by_species(species)
        sorted_species = species[order]
        order = torch.cat([order, torch.arange(len(order), len(order) + num_others)])
        self.counts: List[int] = torch.bincount(species).tolist()
        self.species: torch.Tensor
        self.order: torch.Tensor
        self.original: torch.Tensor
        self.offsets: torch.Tensor
        self.register_buffer("species", sorted_species)
        self.register_buffer("order", order)
        self.register_buffer("original", torch.argsort(order))
        self.register_buffer("offsets", image_offsets(ranges))

    def forward(
        self, positions: torch.Tensor, cell: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Interaction energy and its derivatives.

        Args:
            positions: shape [n, 3] [A], float64; those of others come after those of the atoms.
            cell: lattice vectors in rows, shape [3, 3] [A], float64; ignored if not periodic.

        Returns:
            Energy [] [eV], forces [n, 3] [eV/A], charges [n] [e] (0 for others), dE/dstrain [3, 3]
            [eV], all float64, and the status [] int64. Where the status is not 0 energy and forces
            are NaN.
        """
        positions = positions.index_select(0, self.order)
        num_atoms = self.species.shape[0]
        atoms = positions[:num_atoms]
        neighbors = neighbor_matrix(
            atoms,
            cell,
            self.periodic,
            self.offsets,
            self.cutoff,
            self.capacity,
            self.trim,
            grid=self.grid,
        )
        energies, charges, saved = self.network.short_range(
            atoms,
            neighbors.indices,
            neighbors.shifts,
            neighbors.reverse,
            self.species,
            self.counts,
        )
        overflow = neighbors.largest > self.capacity
        if hasattr(self.network, "outgrown"):  # a network with slots of its own
            overflow = overflow | self.network.outgrown(saved)
        long_range, potential, gradient, strain, outgrown = self.electrostatics(
            charges, positions, cell
        )
        pulled, pulled_strain = self.network.pull_back(
            torch.ones_like(energies), potential, saved, self.counts
        )
        energy = energies.sum() + long_range
        if self.num_others > 0:
            charges = torch.nn.functional.pad(charges, [0, self.num_others])
            pulled = torch.nn.functional.pad(pulled, [0, 0, 0, self.num_others])
        forces = -(pulled + gradient).index_select(0, self.original)

        finite = torch.isfinite(positions).all()
        if self.periodic:
            finite = finite & torch.isfinite(cell).all()
            inverse, _ = inverse_and_volume(cell)
            outgrown = outgrown | ~images_suffice(inverse, self.offsets, self.cutoff)
            grid = self.grid
            if grid is not None:
                outgrown = outgrown | ~grid_suffices(inverse, grid, self.cutoff)
        broken = ~(torch.isfinite(energy) & torch.isfinite(forces).all())
        status = (
            self.overflow * (overflow | (neighbors.crowded & finite))
            + self.box * outgrown
            + self.not_finite * ~finite
            + self.coincident * neighbors.coincident
        )
        status = status + self.no_result * (broken & (status == 0))
        poison = torch.where(
            status == 0, torch.zeros_like(energy), torch.full_like(energy, float("nan"))
        )
        charges = charges.index_select(0, self.original)
        return energy + poison, forces + poison, charges, pulled_strain + strain, status


def order_by_species(species: torch.Tensor) -> torch.Tensor:
    """Indices of atoms in the order in which networks have them, shape [n]."""
    return torch.argsort(species, stable=True)


class SystemModel:
    """One artifact specialised to one system.

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
            False; see `openmm_les.evaluator.Evaluator`.
        surroundings: MM charges around the system. Their positions then follow those of the atoms,
            wherever positions or forces are handed over.

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
    ) -> None:
        check_engine(engine)
        self._engine = engine
        self.artifact = artifact
        self.ewald = ewald or EwaldOptions()
        self.numbers = [int(z) for z in numbers]
        self.periodic = periodic
        self.surroundings = surroundings
        self._num_others = len(surroundings.charges) if surroundings else 0
        self.precision = precision
        self.device = torch.device(device)
        self._check(precision, max_neighbors)
        self.cell = self._checked_cell(cell) if periodic else None
        start = None if positions is None else self._checked_positions(positions)

        elements = sorted(set(self.numbers))
        known = {z: i for i, z in enumerate(artifact.elements)}
        present = [known[z] for z in elements]
        canonical = artifact.canonical
        references = canonical.state["reference_energies"]
        self.reference_energy = float(references[[known[z] for z in self.numbers]].sum())
        self._dtype = torch.float32 if precision == "single" else torch.float64
        self._species = torch.tensor([elements.index(z) for z in self.numbers])
        self.capacity = max_neighbors or self._capacity_for(start, self.cell)
        self._for_gpu = self.device.type != "cpu" or to_gpu
        network = build_network(
            canonical,
            present,
            dtype=self._dtype,
            exact_radial=precision == "double",
            fold=True,
            few_kernels=self._for_gpu and len(self.numbers) * self.capacity <= _FEW_PAIRS,
        )
        self._network = network.eval()
        self._static_shapes = self.device.type != "cpu" or static_shapes or engine == "compile"
        self._reserve_inner(start, self.cell)
        self._grid = self._grid_for(start, self.cell)
        self._told_difference = False
        num_positions = len(self.numbers) + self._num_others
        self._evaluator = Evaluator(num_positions, self.device, cuda_graphs)
        self.module = self._build()

    def _check(self, precision: str, max_neighbors: int | None) -> None:
        if not self.numbers:
            raise InputError("atoms: expected at least one atom, got an empty list")
        check_elements(self.artifact, self.numbers)
        if precision not in ("single", "double"):
            raise InputError(f"precision: expected 'single' or 'double', got {precision!r}")
        if max_neighbors is not None and max_neighbors < 1:
            raise InputError(f"maxNeighbors: expected a positive integer, got {max_neighbors}")

    def _checked_cell(self, cell: npt.ArrayLike | None) -> FloatArray:
        array = np.asarray(np.nan if cell is None else cell, dtype=np.float64)
        if array.shape != (3, 3) or not np.isfinite(array).all():
            raise InputError(
                f"cell: expected three finite box vectors [A] for a periodic system, got {cell!r}"
            )
        if np.linalg.det(array) <= 0.0:
            raise InputError(
                "cell: expected a right-handed box with a volume above zero, got volume "
                f"{np.linalg.det(array):.6g} A^3"
            )
        height = float(box_heights(array).min())
        limit = self.artifact.cutoff / (_MAX_IMAGE_RANGE + 0.5) / _BOX_SHRINKAGE
        if height < limit:
            raise InputError(
                f"cell: the box is too small: its faces are {height:.3f} A apart, a model with a "
                f"cutoff of {self.artifact.cutoff:g} A needs {limit:.3f} A or more; use a supercell"
            )
        return array

    def _checked_positions(self, positions: npt.ArrayLike) -> FloatArray:
        array = np.asarray(positions, dtype=np.float64)
        number = len(self.numbers) + self._num_others
        if array.shape != (number, 3):
            raise InputError(f"positions: expected shape ({number}, 3), got {array.shape}")
        return array

    def _capacity_for(self, positions: FloatArray | None, box: FloatArray | None) -> int:
        """Slots for a structure in its box, with head-room for fluctuations of the density."""
        if positions is None or not np.isfinite(positions).all():
            return min(16, max(1, len(self.numbers) - 1))
        positions = positions[: len(self.numbers)]
        return with_headroom(largest_number_of_neighbors(positions, box, self.artifact.cutoff))

    def _reserve_inner(self, positions: FloatArray | None, box: FloatArray | None) -> None:
        """Slots for the nearest neighbours, where a network keeps them apart (CHGNet's angles)."""
        network: Any = self._network
        if not hasattr(network, "reserve"):
            return
        if not self._static_shapes:
            network.reserve(0)  # as many as each structure needs
            return
        # As many more as the user asks for with maxNeighbors.
        density = (network.inner_cutoff / self.artifact.cutoff) ** 3
        slots = _INNER_MARGIN * self.capacity * density
        if positions is not None and np.isfinite(positions).all():
            atoms = positions[: len(self.numbers)]
            most = largest_number_of_neighbors(atoms, box, network.inner_cutoff)
            slots = max(slots, with_headroom(_INNER_MARGIN * most))
        network.reserve(min(self.capacity, math.ceil(slots)))

    def _grid_for(self, positions: FloatArray | None, box: FloatArray | None) -> CellGrid | None:
        """Cells for a structure in its box, which may shrink as other buffers allow."""
        if positions is not None:
            finite = np.isfinite(positions).all()
            positions = positions[: len(self.numbers)] if finite else None
        return choose_grid(
            len(self.numbers),
            self.artifact.cutoff,
            box,
            positions,
            self.capacity,
            _BOX_SHRINKAGE,
            self._for_gpu,
        )

    def _build(self) -> "torch.jit.ScriptModule":
        ranges = [0, 0, 0]
        cell = None
        if self.cell is not None:
            ranges = image_range(self.cell, self.artifact.cutoff, _BOX_SHRINKAGE)
            cell = torch.from_numpy(self.cell)
        electrostatics = self._electrostatics(cell)
        model = SpecializedModel(
            self._network,
            electrostatics,
            self._species,
            self.periodic,
            ranges,
            self.capacity,
            trim=not self._static_shapes,
            grid=self._grid,
            num_others=self._num_others,
        ).eval()
        script = torch.jit.script(model.to(self.device))
        compiled = self._engine == "compile"
        self._evaluator.load(self._compiled(model, script) if compiled else script)
        return script

    def _electrostatics(self, cell: torch.Tensor | None) -> nn.Module:
        """The model's own electrostatics, among MM charges if there are any."""
        les = self.artifact.canonical.les
        around = self.surroundings
        margin = _BOX_GROWTH if self.periodic else 1.0
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

    def _compiled(self, model: nn.Module, script: Module) -> Module:
        """The compiled module; on a CPU every block of a large system would be compiled anew."""
        if self.device.type == "cpu" and len(self.numbers) * self.capacity > _MOST_PAIRS_COMPILED:
            logger.warning(
                "engine='compile' is for at most %d atoms with %d neighbours each on a CPU, using "
                "TorchScript",
                _MOST_PAIRS_COMPILED // self.capacity,
                self.capacity,
            )
            return script
        return CompiledModule(model, script)

    def evaluate(self, positions: npt.ArrayLike, cell: npt.ArrayLike | None = None) -> Evaluation:
        """Energy and forces of a structure; capacities grow where the structure needs it.

        Args:
            positions: shape (n, 3) [A]; atoms may lie outside the box, those among MM charges in
                one piece.
            cell: lattice vectors in rows, shape (3, 3) [A], for a periodic system; by default that
                of construction.

        Raises:
            InputError: wrong shapes, a box too small.
            SimulationError: a structure without a valid energy.
        """
        array = self._checked_positions(positions)
        box = np.zeros((3, 3))
        if self.cell is not None:
            box = self.cell if cell is None else np.asarray(cell, dtype=np.float64)
        result = self._run(array, box)
        if self.ewald.cutoff == "smooth" and not self._told_difference:
            self._told_difference = True
            n = len(self.numbers)
            self._tell_difference(result.charges[:n], array[:n], box)
        return result

    def _run(self, positions: FloatArray, cell: FloatArray) -> Evaluation:
        """Evaluates, growing the buffers until the structure fits."""
        mendable = STATUS_OVERFLOW | STATUS_BOX
        bits = 0
        for _ in range(_ATTEMPTS):
            energy, forces, charges, virial, bits = self._evaluator(positions, cell)
            if bits == 0:
                return Evaluation(energy, forces, charges, virial)
            if bits & ~mendable:
                break
            self._grow(bits, positions, cell)
        raise SimulationError(describe_status(bits & ~mendable or bits))

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

    def _grow(self, bits: int, positions: FloatArray, cell: FloatArray) -> None:
        box = cell if self.periodic else None
        if bits & STATUS_BOX:
            self.cell = self._checked_cell(box)
            logger.info("the box has outgrown its buffers; making new ones")
        # Counted in the box of now: a barostat may have shrunk the one that buffers were made for.
        self.capacity = max(self.capacity, self._capacity_for(positions, box))
        self._reserve_inner(positions, box)
        self._grid = self._grid_for(positions, box)
        if self._grid is not None:
            logger.info("cells now have %d slots for the atoms in a window", self._grid.slots)
        logger.info("neighbour matrix now has %d slots for each atom", self.capacity)
        self.module = self._build()


def with_headroom(neighbors: float) -> int:
    """Slots for atoms with up to `neighbors` neighbours now: a tenth more, in steps of 4."""
    return 4 * math.ceil((1.1 * neighbors + 1) / 4)


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


def _symbols(numbers: Sequence[int]) -> str:
    from openmm.app import Element

    def symbol(z: int) -> str:
        try:
            return str(Element.getByAtomicNumber(z).symbol)
        except KeyError:
            return f"atomic number {z}"

    return ", ".join(symbol(z) for z in numbers)
