"""Sums over pairs of an ML atom and an MM charge: all pairs, and corrections for bonded ones."""

from typing import Any, NamedTuple, Sequence

import torch
from torch import nn

from openmm_les.electrostatics.cell import inverse_and_volume, nearest_image
from openmm_les.errors import InputError

#: Separations of this many pairs (float64) stay in a CPU's cache.
PAIRS_PER_CHUNK = 2**15


class Coupling(NamedTuple):
    """Energy of the ML charges in the field of the MM charges and its first derivatives, float64.

    Attributes:
        energy: shape [] [eV]; NaN if the box has outgrown the reciprocal grid.
        potential: dE/dq of the ML charges at fixed positions, shape [n] [eV/e].
        gradient: dE/dr of the ML atoms at fixed charges, shape [n, 3] [eV/A].
        mm_gradient: dE/dr of the MM atoms, shape [m, 3] [eV/A].
        strain: dE/dstrain at fixed charges, with all atoms and the cell deformed alike
            (r to r (1 + strain)), shape [3, 3] [eV].
        outgrown: whether the box has outgrown the reciprocal grid, bool, shape [].
    """

    energy: torch.Tensor
    potential: torch.Tensor
    gradient: torch.Tensor
    mm_gradient: torch.Tensor
    strain: torch.Tensor
    outgrown: torch.Tensor


class PairTerms(NamedTuple):
    """A sum over pairs ``E = sum_i q_i potential_i``, in units of the Coulomb constant, float64.

    Attributes:
        potential: shape [n] [e/A].
        gradient: of E by the positions of the ML atoms, shape [n, 3] [e^2/A^2].
        mm_gradient: of E by the positions of the MM atoms, shape [m, 3] [e^2/A^2].
        strain: of E, shape [3, 3] [e^2/A].
    """

    potential: torch.Tensor
    gradient: torch.Tensor
    mm_gradient: torch.Tensor
    strain: torch.Tensor


class AllPairs(nn.Module):
    """Every ML atom with every MM atom, at its nearest image.

    There is no list of neighbours: an ML region is small, and so is the cost, n times m. Chunks of
    MM atoms bound memory. Differences of fractional coordinates are taken and reduced in float64,
    the rest is done in the module's dtype: r^2 comes from the metric of the cell, and pulls are
    summed in fractional coordinates, so that no pair has Cartesian ones.

    The nearest image is that of rounded fractional coordinates. In any cell it is the true one up
    to half of the smallest height of the cell.
    """

    def __init__(
        self,
        interaction: nn.Module,
        *,
        periodic: bool,
        dtype: torch.dtype,
        pairs_per_chunk: int = PAIRS_PER_CHUNK,
    ) -> None:
        """Set up the sum of a module of `openmm_les.electrostatics.embedding.interactions`.

        Everything but separations and sums of chunks is in `dtype`.
        """
        super().__init__()
        self.interaction: Any = interaction
        self.periodic = periodic
        self.dtype = dtype
        self.pairs_per_chunk = pairs_per_chunk

    def forward(
        self,
        charges: torch.Tensor,
        positions: torch.Tensor,
        mm_charges: torch.Tensor,
        mm_positions: torch.Tensor,
        cell: torch.Tensor,
        splitting: torch.Tensor,
    ) -> PairTerms:
        """The sum ``sum_ij q_i Q_j f(r_ij)``.

        The interaction gets the splitting parameter; other arguments are those of
        `EwaldCoupling.forward`.
        """
        basis = cell
        points, mm_points = positions, mm_positions
        if self.periodic:
            inverse, _ = inverse_and_volume(cell)
            points, mm_points = points @ inverse, mm_points @ inverse
        else:
            basis = torch.eye(3, dtype=torch.float64, device=positions.device)
        metric = (basis @ basis.t()).to(self.dtype)
        columns, mm_columns = points.t().contiguous(), mm_points.t().contiguous()
        charges, mm_charges = charges.to(self.dtype), mm_charges.to(self.dtype)

        n, m = charges.shape[0], mm_charges.shape[0]
        chunk = max(1, self.pairs_per_chunk // max(1, n))
        potential, pulls = points.new_zeros([n]), points.new_zeros([3, n])
        # Written in place, as in `StructureFactors`.
        mm_pulls = points.new_empty([3, m])
        moments = points.new_zeros([3, 3])
        for start in range(0, m, chunk):
            end = start + chunk
            partners = mm_charges[start:end]
            d = columns[:, :, None] - mm_columns[:, None, start:end]
            if self.periodic:
                d = d - torch.round(d)
            d = d.to(self.dtype)
            value, slope = self.interaction(_squared(d, metric), splitting)
            potential = potential + (value @ partners).to(torch.float64)
            pull = d * (slope * charges[:, None] * partners)
            pulls = pulls + pull.sum(dim=2).to(torch.float64)
            mm_pulls[:, start:end] = -pull.sum(dim=1).to(torch.float64)
            moments = moments + (pull.view(3, -1) @ d.view(3, -1).t()).to(torch.float64)
        return PairTerms(
            potential, pulls.t() @ basis, mm_pulls.t() @ basis, basis.t() @ moments @ basis
        )


def _squared(d: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """d^T metric d of vectors in columns, shape [3, ...]."""
    x, y, z = d.unbind(0)
    r2 = x * (metric[0, 0] * x + 2.0 * metric[0, 1] * y + 2.0 * metric[0, 2] * z)
    return r2 + y * (metric[1, 1] * y + 2.0 * metric[1, 2] * z) + metric[2, 2] * (z * z)


class ScaledPair(NamedTuple):
    """A pair near a bond, whose Coulomb interaction is multiplied by a factor."""

    ml_atom: int
    mm_charge: int
    factor: float


class ListedPairs(nn.Module):
    """Pairs of an ML and an MM atom with a factor, and what is to take the place of what."""

    first: torch.Tensor
    second: torch.Tensor
    factors: torch.Tensor

    def __init__(
        self, pairs: Sequence[ScaledPair], counted: nn.Module, coulomb: nn.Module, periodic: bool
    ) -> None:
        """Set up the list.

        What the sum over all pairs (and images) has for a pair is the interaction `counted`, and a
        factor multiplies that of `coulomb`.
        """
        super().__init__()
        indices = [(int(i), int(j)) for i, j, _ in pairs]
        if len(set(indices)) < len(indices) or any(min(pair) < 0 for pair in indices):
            raise InputError(
                "scaled_pairs: expected each pair of an ML and an MM atom once, by indices >= 0, "
                f"got {indices}"
            )
        self.counted: Any = counted
        self.coulomb: Any = coulomb
        self.periodic = periodic
        factors = [float(factor) for _, _, factor in pairs]
        self.register_buffer("first", torch.tensor([i for i, _ in indices], dtype=torch.int64))
        self.register_buffer("second", torch.tensor([j for _, j in indices], dtype=torch.int64))
        self.register_buffer("factors", torch.tensor(factors, dtype=torch.float64))

    def separations(
        self,
        positions: torch.Tensor,
        mm_positions: torch.Tensor,
        cell: torch.Tensor,
        inverse: torch.Tensor,
    ) -> torch.Tensor:
        """Vectors from MM to ML atoms [pairs, 3], of nearest images in a periodic box."""
        d = positions.index_select(0, self.first) - mm_positions.index_select(0, self.second)
        return nearest_image(d, cell, inverse) if self.periodic else d


class ScaledPairs(ListedPairs):
    """The difference that pairs near a bond make: an ML and an MM atom with a scaled interaction.

    Bonded neighbours (1-2, 1-3) do not interact, 1-4 neighbours in part. What the sum over all
    pairs has for them is taken out, and ``factor`` times the plain Coulomb interaction of nearest
    images put in its place: without cutoff and reaction field, as OpenMM does for exceptions.
    Images further away stay as they are. Always float64.
    """

    def forward(
        self,
        charges: torch.Tensor,
        positions: torch.Tensor,
        mm_charges: torch.Tensor,
        mm_positions: torch.Tensor,
        cell: torch.Tensor,
        splitting: torch.Tensor,
    ) -> PairTerms:
        """What is to be added to `AllPairs`, whose arguments it takes."""
        inverse = inverse_and_volume(cell)[0] if self.periodic else cell
        d = self.separations(positions, mm_positions, cell, inverse)
        r2 = (d * d).sum(dim=1)
        value, slope = self.coulomb(r2, splitting)
        counted, counted_slope = self.counted(r2, splitting)
        value, slope = self.factors * value - counted, self.factors * slope - counted_slope
        partners = mm_charges.to(torch.float64).index_select(0, self.second)
        products = charges.to(torch.float64).index_select(0, self.first) * partners
        pull = d * (slope * products)[:, None]
        return PairTerms(
            positions.new_zeros([positions.shape[0]]).index_add(0, self.first, value * partners),
            torch.zeros_like(positions).index_add(0, self.first, pull),
            torch.zeros_like(mm_positions).index_add(0, self.second, -pull),
            pull.t() @ d,
        )


def total(one: PairTerms, other: PairTerms) -> PairTerms:
    return PairTerms(
        one.potential + other.potential,
        one.gradient + other.gradient,
        one.mm_gradient + other.mm_gradient,
        one.strain + other.strain,
    )
