"""The LES energy of a batch of structures, for training."""

from __future__ import annotations

import functools
import math
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics.cell import self_energy_coefficient
from openmm_les.electrostatics.kernel import ReciprocalKernel
from openmm_les.electrostatics.multipoles.moments import (
    Multipoles,
    SiteMoments,
    multipoles_of,
)
from openmm_les.errors import InputError
from openmm_les.learning.arithmetic import without_autocast
from openmm_les.learning.pairs import are_few, few_pairs, open_energies
from openmm_les.learning.reciprocal import periodic_energy


class LES(nn.Module):
    """The energy of latent charges, dipoles and quadrupoles that respond to their own field.

    It is the one that `openmm_les.electrostatics` computes when a trained model runs: Cheng, npj
    Comput. Mater. 11, 80 (2025); King et al., Nat. Commun. 16, 8763 (2025); with moments and
    response arXiv 2605.05746 (2026). Autograd differentiates it by every argument, twice and more,
    as training on forces and stresses needs. All derivatives are sums in closed form that keep
    neither an array of reciprocal vectors times atoms nor one of pairs.

    There are no parameters to learn. It computes on the device of its arguments, without autocast;
    torch.compile leaves it out. Several gradients at once (``is_grads_batched``) and torch.func are
    not supported.
    """

    def __init__(
        self,
        *,
        sigma: float = 1.0,
        dl: float = 2.0,
        prefactor: float = 90.4756,
        remove_self_interaction: bool = True,
        n_max: int | None = None,
    ) -> None:
        """Set up the constants.

        Args:
            sigma: width of the Gaussian charges [A].
            dl: resolution [A]; reciprocal vectors up to ``2 pi / dl`` are summed.
            prefactor: c = 1 / (2 eps0) [eV A / e^2].
            remove_self_interaction: whether the energy is without that of each site with itself.
            n_max: leaves out reciprocal vectors with a larger integer coordinate.

        Raises:
            InputError: a constant is not a finite number, sigma or dl is not a length, or n_max is
                no integer above 0.
        """
        super().__init__()
        constants = {"sigma": sigma, "dl": dl, "prefactor": prefactor}
        for name, value in constants.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{name}: expected a number, got {value!r}")
            if not math.isfinite(value):
                raise InputError(f"{name}: expected a finite number, got {value}")
        if n_max is not None and (type(n_max) is not int or n_max < 1):
            raise InputError(f"n_max: expected an integer of 1 or more, or None, got {n_max!r}")
        self.sigma, self.prefactor = sigma, prefactor
        self.kernel = ReciprocalKernel(
            sigma=sigma, dl=dl, prefactor=prefactor, remove_self_interaction=False, n_max=n_max
        )
        self.self_energy = (
            self_energy_coefficient(prefactor, sigma) if remove_self_interaction else 0.0
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator] # it would lose second derivatives
    @without_autocast
    def forward(
        self,
        charges: Tensor,
        positions: Tensor,
        batch: Tensor | None = None,
        cell: Tensor | None = None,
        *,
        dipoles: Tensor | None = None,
        quadrupoles: Tensor | None = None,
        kappa: Tensor | None = None,
        alpha: Tensor | None = None,
    ) -> Tensor:
        """The energy of each structure.

        Args:
            charges: latent charges of all n atoms, shape [n], float32 or float64 [e]; or
                [n, channels], several of each atom, whose energies add up.
            positions: shape [n, 3] [A]; atoms may lie outside the cell.
            batch: index of the structure of each atom, shape [n], in any order; one structure by
                default.
            cell: lattice vectors in rows, shape [structures, 3, 3] or [3 structures, 3] [A], zeros
                for structures that are not periodic; by default none is.
            dipoles: shape [n, 3] [e A].
            quadrupoles: primitive second moments, symmetric and traceless, shape [n, 3, 3] [e A^2].
            kappa: charge response, shape [n] [e/V].
            alpha: polarizability, shape [n], or symmetric and [n, 3, 3] [e A^2/V].

        Returns:
            Shape [structures] [eV], in the dtype of the charges, with sums in float64.

        Raises:
            InputError: an argument has another shape or dtype, a cell has no volume, quadrupoles
                are not symmetric and traceless, or there are moments with several charges of
                each atom.
        """
        moments = SiteMoments(charges, dipoles, quadrupoles, kappa, alpha)
        structures = _structures(positions, batch, cell)
        if charges.dim() == 2:
            if charges.shape[1] == 0:
                raise InputError("charges: expected one or more for each atom, got none")
            if charges.shape[1] > 1 and any(part is not None for part in moments[1:]):
                raise InputError(
                    f"charges: expected one for each atom beside other moments, got "
                    f"{charges.shape[1]}"
                )
            channels = [moments._replace(charges=column) for column in charges.unbind(1)]
        else:
            channels = [moments]
        energies = []
        for channel in channels:
            _check(channel, len(positions))
            energies.append(self._energy(channel, positions, structures))
        return functools.reduce(torch.add, energies).to(charges.dtype)

    def _energy(self, moments: SiteMoments, positions: Tensor, structures: _Structures) -> Tensor:
        """Energies of all structures, float64."""
        only_charges = all(part is None for part in moments[1:])
        if only_charges and not structures.periodic and are_few(structures.open):
            return self._energy_of_few(moments.charges, positions, structures)
        permanent = multipoles_of(moments.charges, moments.dipoles, moments.quadrupoles)
        degree = 2 if moments.quadrupoles is not None else int(moments.dipoles is not None)
        responds = moments.kappa is not None or moments.alpha is not None
        energies, fields = [], []
        for cell, sites in structures.periodic:
            own = Multipoles(*(part[sites] for part in permanent))
            energy, field = periodic_energy(
                own, positions[sites], cell, self.kernel, degree, responds
            )
            energies.append(energy.unsqueeze(0))
            fields.append(field)
        for sites in structures.open:
            energy, field = open_energies(
                permanent, positions, sites, self.sigma, self.prefactor, degree, responds
            )
            energies.append(energy)
            fields.append(field)
        of_sites = -self.self_energy * self._squares(permanent)
        if responds:
            at_sites = torch.cat([field for field in fields if field is not None])
            at_sites = at_sites[torch.argsort(structures.sites())]
            of_sites = of_sites + self._response(moments, permanent, at_sites)
        total = of_sites.new_zeros(structures.number).index_add(0, structures.batch, of_sites)
        return total.index_add(0, structures.evaluated, torch.cat(energies))

    def _energy_of_few(self, charges: Tensor, positions: Tensor, structures: _Structures) -> Tensor:
        """The same for charges of small open structures."""
        energies = torch.cat(
            [
                few_pairs(charges, positions, sites, self.sigma, self.prefactor)
                for sites in structures.open
            ]
        )
        if len(structures.open) == 1 and len(energies) == structures.number:
            total = energies  # in the order of the structures
        else:
            zeros = energies.new_zeros(structures.number)
            total = zeros.index_add(0, structures.evaluated, energies)
        if self.self_energy:  # which `few_pairs` leaves out
            return total
        own = self_energy_coefficient(self.prefactor, self.sigma)
        squares = charges.to(torch.float64).square()
        return total.index_add(0, structures.batch, own * squares)

    def _squares(self, moments: Multipoles) -> Tensor:
        """What the self-interaction of each site is proportional to, float64, shape [n]."""
        charges, dipoles, quadrupoles = (part.to(torch.float64) for part in moments)
        squares = charges.square() + dipoles.square().sum(dim=1) / (3.0 * self.sigma**2)
        return squares + quadrupoles.square().sum(dim=(1, 2)) / (10.0 * self.sigma**4)

    def _response(self, moments: SiteMoments, permanent: Multipoles, at_sites: Tensor) -> Tensor:
        """Energy of the response of each site to potential and its gradient, float64, shape [n]."""
        own = 2.0 * self.self_energy
        potential = (at_sites[:, 0] - own * permanent.charges).to(torch.float64)
        field = own / (3.0 * self.sigma**2) * permanent.dipoles - at_sites[:, 1:]
        field = field.to(torch.float64)
        energy = torch.zeros_like(potential)
        if moments.kappa is not None:
            energy = energy - 0.5 * moments.kappa * potential.square()
        if moments.alpha is not None and moments.alpha.dim() == 1:
            energy = energy - 0.5 * moments.alpha * field.square().sum(dim=1)
        elif moments.alpha is not None:
            vectors = torch.bmm(moments.alpha.to(torch.float64), field.unsqueeze(2)).squeeze(2)
            energy = energy - 0.5 * (vectors * field).sum(dim=1)
        return energy


class _Structures(NamedTuple):
    """How the structures of a batch are evaluated."""

    number: int
    batch: Tensor  #: structure of each atom, shape [n].
    periodic: list[tuple[Tensor, Tensor]]  #: cell [3, 3] and atoms of each.
    open: list[Tensor]  #: atoms of groups of similar size, [b, size], -1 where there is none.
    evaluated: Tensor  #: structures in the order of those above.

    def sites(self) -> Tensor:
        """All atoms in the order of those above, shape [n]."""
        own = [sites for _, sites in self.periodic]
        return torch.cat([*own, *(sites[sites >= 0] for sites in self.open)])


def _structures(positions: Tensor, batch: Tensor | None, cell: Tensor | None) -> _Structures:
    n = len(positions)
    if positions.shape != (n, 3) or n == 0:
        raise InputError(
            f"positions: expected the shape [atoms, 3], at least one, got {list(positions.shape)}"
        )
    if batch is None:
        batch = torch.zeros(n, dtype=torch.int64, device=positions.device)
    if batch.shape != (n,):
        raise InputError(
            f"batch: expected a structure for each of {n} atoms, got {list(batch.shape)}"
        )
    first, last = torch.stack(torch.aminmax(batch)).tolist()
    if batch.dtype not in (torch.int32, torch.int64) or first < 0:
        raise InputError(
            f"batch: expected integers from 0 on, int64 or int32, got {batch.dtype} from {first} on"
        )
    least = last + 1
    cells = _cells(positions.new_zeros([least, 3, 3]) if cell is None else cell, least)
    sizes = torch.bincount(batch, minlength=len(cells)).tolist()
    atoms = torch.argsort(batch, stable=True)
    starts = [0, *accumulate(sizes)]
    is_periodic = cells.detach().flatten(1).any(dim=1).tolist()
    groups: dict[int, list[int]] = {}
    for i, size in enumerate(sizes):
        if size > 0:
            # Sizes in a group differ by less than a factor of two: little is padded.
            groups.setdefault(-1 if is_periodic[i] else size.bit_length(), []).append(i)
    lattices = groups.pop(-1, [])
    order = [*lattices, *(i for group in groups.values() for i in group)]
    return _Structures(
        len(cells),
        batch,
        [(cells[i], atoms[starts[i] : starts[i + 1]]) for i in lattices],
        [_padded([(starts[i], sizes[i]) for i in group], atoms) for group in groups.values()],
        torch.tensor(order, device=batch.device),
    )


def _padded(ranges: list[tuple[int, int]], atoms: Tensor) -> Tensor:
    """The atoms in ranges, given by start and size, in rows that -1 fills up."""
    starts, sizes = torch.tensor(ranges, device=atoms.device).unsqueeze(2).unbind(1)
    places = torch.arange(max(size for _, size in ranges), device=atoms.device)
    return atoms[(starts + places).clamp(max=len(atoms) - 1)].where(places < sizes, -1)


def _cells(cell: Tensor, least: int) -> Tensor:
    """One of each structure [structures, 3, 3], of which there are that many at least."""
    if cell.shape[-1] != 3 or cell.numel() % 9 != 0:
        raise InputError(
            "cell: expected the shape [structures, 3, 3] or [3 structures, 3], got "
            f"{list(cell.shape)}"
        )
    cells = cell.reshape(-1, 3, 3)
    if len(cells) < least:
        raise InputError(f"cell: expected one for each of {least} structures, got {len(cells)}")
    if not bool(cells.detach().any()):
        return cells
    boxes = cells.detach().to(torch.float64)
    # A volume of NaN is none, either, nor one that is lost in the rounding of the vectors; and
    # vectors much shorter than an atom are of other units, or damaged.
    least_volume = 1e-9 * boxes.norm(dim=2).clamp(min=1e-3).prod(dim=1)
    volumes = torch.linalg.det(boxes).abs()
    has_none = boxes.flatten(1).any(dim=1) & ~((volumes > least_volume) & volumes.isfinite())
    if bool(has_none.any()):
        i = int(torch.nonzero(has_none)[0])
        raise InputError(
            f"cell: expected three independent lattice vectors, or zeros for a structure that is "
            f"not periodic, got {boxes[i].tolist()} for structure {i}"
        )
    return cells


def _check(moments: SiteMoments, n: int) -> None:
    """Refuse moments whose shape or dtype is not as `LES.forward` expects."""
    shapes = ([[n]], [[n, 3]], [[n, 3, 3]], [[n]], [[n], [n, 3, 3]])
    for (name, value), accepted in zip(moments._asdict().items(), shapes, strict=True):
        if value is not None and list(value.shape) not in accepted:
            wanted = " or ".join(str(shape) for shape in accepted)
            raise InputError(f"{name}: expected the shape {wanted}, got {list(value.shape)}")
    if moments.charges.dtype not in (torch.float32, torch.float64):
        raise InputError(f"charges: expected float32 or float64, got {moments.charges.dtype}")
    if moments.quadrupoles is not None:
        q = moments.quadrupoles.detach()
        traces = q.diagonal(dim1=1, dim2=2).sum(dim=1)
        wrong = torch.maximum((q - q.transpose(1, 2)).abs().amax(), traces.abs().amax())
        if bool(wrong > 1e-3 * q.abs().amax()):
            raise InputError(
                f"quadrupoles: expected symmetric ones without a trace, got some that are "
                f"{float(wrong):.3g} e A^2 off; take (Q + Q^T)/2 less a third of its trace on the "
                "diagonal"
            )
