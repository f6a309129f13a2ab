"""Latent moments as a network hands them over, and their energy as an `ElectrostaticKernel`."""

from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn

from openmm_les.electrostatics import DirectEwald, MeshEwald, PairSum, build_electrostatics
from openmm_les.electrostatics.multipoles.build import build_multipoles, dense_multipoles
from openmm_les.electrostatics.multipoles.moments import SiteMoments
from openmm_les.electrostatics.multipoles.sum import MultipoleSum
from openmm_les.electrostatics.multipoles.terms import MultipoleTerms
from openmm_les.electrostatics.protocol import ElectrostaticTerms

#: Rows of the induced charges and dipoles that follow those of the latents.
INDUCED_ROWS = 4


class LatentLayout(NamedTuple):
    """Which rows of latents, shape [rows, n], hold what; the first one holds the charges.

    The others are numbers of first rows, -1 for what a model lacks. Tensors are flattened row by
    row.
    """

    dipoles: int  #: 3 rows
    quadrupoles: int  #: 9 rows
    kappa: int  #: 1 row
    alpha: int  #: `alpha_rows` rows
    alpha_rows: int  #: 1 for isotropic ones, 9 for tensors, 0 for none
    rows: int


def latent_layout(
    *, dipoles: bool, quadrupoles: bool, kappa: bool, alpha_rows: int
) -> LatentLayout:
    """The layout of a model with these moments."""
    row, first = 1, []
    for size in (3 * dipoles, 9 * quadrupoles, 1 * kappa, alpha_rows):
        first.append(row if size else -1)
        row += size
    return LatentLayout(first[0], first[1], first[2], first[3], alpha_rows, row)


def site_moments(latents: Tensor, layout: LatentLayout) -> SiteMoments:
    """The moments of n sites from latents, shape [rows, n]."""
    n = latents.shape[1]
    alpha = _rows(latents, layout.alpha, layout.alpha_rows)
    return SiteMoments(
        latents[0],
        _tensors(_rows(latents, layout.dipoles, 3), [n, 3]),
        _tensors(_rows(latents, layout.quadrupoles, 9), [n, 3, 3]),
        _tensors(_rows(latents, layout.kappa, 1), [n]),
        _tensors(alpha, [n] if layout.alpha_rows == 1 else [n, 3, 3]),
    )


def by_latents(terms: MultipoleTerms) -> Tensor:
    """The derivatives of an energy by the moments in the layout of latents, shape [rows, n]."""
    return as_latents(
        SiteMoments(terms.charges, terms.dipoles, terms.quadrupoles, terms.kappa, terms.alpha)
    )


def as_latents(moments: SiteMoments) -> Tensor:
    """Moments, or derivatives by them, in the layout of latents, shape [rows, n]."""
    parts = [moments.charges.unsqueeze(0)]
    for part in (moments.dipoles, moments.quadrupoles, moments.kappa, moments.alpha):
        if part is not None:
            parts.append(part.flatten(1).t() if part.dim() > 1 else part.unsqueeze(0))
    return torch.cat(parts)


class LatentMultipoles(nn.Module):
    """The energy of latent moments: an `ElectrostaticKernel` of latents [rows, n]."""

    layout: LatentLayout  # TorchScript would take it for a plain tuple

    def __init__(self, multipoles: MultipoleSum, layout: LatentLayout) -> None:
        super().__init__()
        self.multipoles: MultipoleSum = multipoles
        self.layout = layout
        #: Of the highest moments, permanent or induced.
        self.degree = max(multipoles.degree, multipoles.induced_degree)
        #: Whether there may be dipoles, permanent or induced.
        self.has_dipoles = max(layout.dipoles, layout.alpha) >= 0

    def forward(
        self,
        latents: Tensor,
        positions: Tensor,
        cell: Tensor,
        external_potential: Optional[Tensor] = None,
        external_field: Optional[Tensor] = None,
    ) -> ElectrostaticTerms:
        """See `ElectrostaticKernel`; the potential is dE/d(latents), shape [rows, n].

        For what is external see `MultipoleSum.forward`.
        """
        moments = site_moments(latents, self.layout)
        terms = self.multipoles(moments, positions, cell, external_potential, external_field)
        n = latents.shape[1]
        charges, dipoles = terms.induced_charges, terms.induced_dipoles
        induced = torch.cat(
            [
                latents.new_zeros([1, n]) if charges is None else charges.unsqueeze(0),
                latents.new_zeros([3, n]) if dipoles is None else dipoles.t(),
            ]
        )
        return ElectrostaticTerms(
            terms.energy, by_latents(terms), terms.gradient, terms.strain, terms.outgrown, induced
        )

    @torch.jit.export
    def weighted(
        self,
        latents: Tensor,
        positions: Tensor,
        cell: Tensor,
        weights: Tensor,
        directions: Tensor,
        induced_directions: Tensor,
    ) -> Tuple[Tensor, Tensor]:
        """Derivatives of m sums of `MultipoleSum.weighted`.

        By latents, shape [m, rows, n], and by positions at fixed latents, shape [m, n, 3].
        """
        found = self.multipoles.weighted(
            site_moments(latents, self.layout),
            positions,
            cell,
            weights,
            directions,
            induced_directions,
        )
        rows = [as_latents(each[0]) for each in found]
        return torch.stack(rows), torch.stack([each[1] for each in found])

    @torch.jit.export
    def dipoles(self, latents: Tensor) -> Tensor:
        """The permanent dipoles, zeros where a model has none, shape [n, 3]."""
        dipoles = site_moments(latents, self.layout).dipoles
        return latents.new_zeros([latents.shape[1], 3]) if dipoles is None else dipoles

    @torch.jit.export
    def polarized(self, latents: Tensor, field: Tensor) -> Tuple[Tensor, Tensor]:
        """The dipoles alpha E in a field E [3], and the derivatives of ``E . sum alpha E``.

        Dipoles have the shape [n, 3], derivatives by latents [rows, n].
        """
        dipoles = latents.new_zeros([latents.shape[1], 3])
        derivatives = torch.zeros_like(latents)
        alpha = site_moments(latents, self.layout).alpha
        if alpha is not None:
            first, rows = self.layout.alpha, self.layout.alpha_rows
            products = (field.unsqueeze(1) * field).flatten()
            if rows == 1:
                dipoles = alpha.unsqueeze(1) * field
                products = (field * field).sum(dim=0, keepdim=True)
            else:
                dipoles = alpha @ field
            derivatives[first : first + rows] = products.unsqueeze(1)
        return dipoles, derivatives


def latent_multipoles(layout: LatentLayout, **sums: Any) -> LatentMultipoles:
    """The kernel for a model with this layout; `sums` are the arguments of `build_multipoles`."""
    return LatentMultipoles(build_multipoles(**sums, **_degrees(layout)), layout)


def electrostatics_for(
    layout: LatentLayout | None, **sums: Any
) -> DirectEwald | MeshEwald | PairSum | LatentMultipoles:
    """The kernel of any model: `latent_multipoles`, or without a layout `build_electrostatics`."""
    return build_electrostatics(**sums) if layout is None else latent_multipoles(layout, **sums)


def dense_latent_multipoles(layout: LatentLayout, les: Mapping[str, Any]) -> LatentMultipoles:
    """The kernel for periodic systems in any box; see `dense_multipoles`."""
    return LatentMultipoles(dense_multipoles(les, **_degrees(layout)), layout)


def _degrees(layout: LatentLayout) -> dict[str, Any]:
    return {
        "degree": 2 if layout.quadrupoles >= 0 else int(layout.dipoles >= 0),
        "induced_degree": 1 if layout.alpha >= 0 else int(layout.kappa >= 0) - 1,
    }


def _rows(latents: Tensor, first: int, number: int) -> Optional[Tensor]:
    return latents[first : first + number].t() if first >= 0 else None


def _tensors(rows: Optional[Tensor], shape: List[int]) -> Optional[Tensor]:
    return None if rows is None else rows.reshape(shape)
