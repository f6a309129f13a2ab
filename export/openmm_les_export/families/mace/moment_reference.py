"""Latent moments of a MACE model by their formulas, for verification: no code of the network.

The readouts are modules that take node features in e3nn's layout; `reference` makes them, since no
other file imports mace-torch. arXiv 2605.05746 (Cheng and co-workers, 2026).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openmm_les_export.checkpoints.records import Record, is_off
from openmm_les_export.families.mace.readouts import output_scale
from openmm_les_export.verification.multipoles import Moments


class OuterProducts(nn.Module):
    """Tensors from outer products of vectors; parameters have the names of mace-torch's blocks.

    `linear` is a map of the features, which has all channels of vectors behind those of scalars.
    """

    def __init__(self, linear: nn.Module, channels: int, record: Record) -> None:
        super().__init__()
        self.linear, self.channels = linear, channels
        self.squared = not is_off(record.value("make_w_pos", None))
        self.factors = next(name for name in record.modules() if name != "linear")
        if self.factors == "mlp":
            hidden = record.module("mlp.0").tensor("bias").shape[0]
            layers = nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, channels**2)
            self.mlp = nn.Sequential(*layers)
        else:
            self.add_module(self.factors, nn.Linear(channels, channels))

    def forward(self, features: Tensor) -> Tensor:
        """From features [n, all] to tensors [n, 3, 3]."""
        y = self.linear(features)
        vectors = y[:, self.channels : 4 * self.channels].reshape(len(y), self.channels, 3)
        factors = getattr(self, self.factors)(y[:, : self.channels])
        if self.factors == "mlp":
            matrices = factors.view(len(y), self.channels, self.channels)
            matrices = 0.5 * (matrices + matrices.transpose(1, 2))
            return torch.einsum("ncd,nca,ndb->nab", matrices, vectors, vectors)
        factors = factors**2 if self.squared else factors
        return torch.einsum("nc,nca,ncb->nab", factors, vectors, vectors)


class MomentFormulas:
    """From the features of the layers that are read to final moments.

    `readouts` has the modules of each list in use, by the list's name.
    """

    def __init__(self, model: Record, readouts: dict[str, Sequence[Any]]) -> None:
        self._readouts = readouts
        self._anisotropic = not is_off(model.value("use_anisotropic_polarizability", None))
        self._positive = {
            name: not is_off(model.value(f"make_{name}_positive", None))
            for name in ("kappa", "alpha")
        }
        names = ("output", "kappa", "alpha")
        self._scales = {name: output_scale(model, f"les_{name}_scale") for name in names}
        self._bases = {
            name: basis.double() for name, basis in model.tensors().items() if "basis" in name
        }
        self._les = model.module("les")

    def __call__(
        self, charges: Tensor, features: Sequence[Tensor], heads: Tensor, numbers: Tensor
    ) -> Tensor | Moments:
        """Moments, or charges alone, of atoms with these numbers; `heads` is the head of each."""
        index = int(heads[0])

        def summed(name: str, *more: Tensor) -> Any:
            found = self._readouts.get(name)
            pairs = zip(found, features, strict=True) if found else ()
            return sum(readout(x, *more) for readout, x in pairs) if found else None

        charges = charges + self._table("use_fixed_atomic_charges", numbers)
        dipoles = summed("les_u_readouts")
        quadrupoles = _added(
            self._tensors(summed("les_quad_2e_readouts"), "change_of_basis_quads"),
            summed("les_quad_1o_readouts"),
        )
        kappa = summed("les_kappa_readouts", heads)
        scalars = summed("les_alpha_readouts", heads)
        if scalars is not None:
            scalars = scalars[:, index]
            if self._anisotropic:
                scalars = scalars[:, None, None] * torch.eye(3)
        alpha = _added(
            self._tensors(summed("les_alpha_2e_readouts"), "change_of_basis"),
            summed("les_alpha_1o_readouts"),
            scalars,
        )
        if all(each is None for each in (dipoles, quadrupoles, kappa, alpha)):
            return charges
        if dipoles is not None:
            dipoles = self._scales["output"] * dipoles
        if quadrupoles is not None:
            quadrupoles = self._scales["output"] * quadrupoles
            trace = torch.einsum("naa->n", quadrupoles)[:, None, None]
            quadrupoles = quadrupoles - trace / 3 * torch.eye(3)
        if kappa is not None:
            kappa = self._scales["kappa"] * kappa[:, index]
            kappa = kappa**2 if self._positive["kappa"] else kappa
        return Moments(charges, dipoles, quadrupoles, kappa, self._final(alpha, numbers))

    def _final(self, alpha: Tensor | None, numbers: Tensor) -> Tensor | None:
        if alpha is None:
            return None
        alpha = self._scales["alpha"] * alpha
        if self._positive["alpha"]:
            alpha = alpha**2 if alpha.dim() == 1 else alpha @ alpha.transpose(1, 2)
        of_atoms = self._table("use_atomic_alpha", numbers)
        return alpha + (of_atoms[:, None, None] * torch.eye(3) if alpha.dim() > 1 else of_atoms)

    def _tensors(self, components: Tensor | None, basis: str) -> Tensor | None:
        if components is None:
            return None
        return torch.einsum("nm,mab->nab", components, self._bases[basis])

    def _table(self, switch: str, numbers: Tensor) -> Tensor:
        """Values of the les package by element, shape [n]; zero if they are off."""
        if is_off(self._les.value(switch, None)):
            return torch.zeros(len(numbers))
        alpha = switch == "use_atomic_alpha"
        table = self._les.module("atomic_alpha" if alpha else "fixed_charges")
        values = table.value("alpha_dict" if alpha else "charge_dict")
        factor = table.number("normalization_factor")  # of alpha: from Bohr^3 to e A^2/V
        return factor * torch.tensor([float(values[int(number)]) for number in numbers])


def _added(*parts: Tensor | None) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.stack(found).sum(0) if found else None
