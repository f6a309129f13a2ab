"""Peers to compare with: the same weights in mace-torch's own class, as openmm-ml runs it.

mace-torch's MACELES takes its electrostatics from the `les` package, which is not on PyPI. For
these benchmarks alone a stand-in written here, a plain autograd sum over all k-vectors and atoms as
that package does it, takes its place.
"""

import contextlib
import io
import math
import sys
import types
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from openmm_les_export import read_model
from openmm_les_export.checkpoints.unpickle import open_model


class Ewald(torch.nn.Module):
    """Parameters of the sum, under the names that MACE-LES files use."""

    def __init__(self, sigma: float, dl: float, prefactor: float, remove: bool) -> None:
        super().__init__()
        self.sigma, self.dl = sigma, dl
        self.sigma_sq_half, self.k_sq_max = sigma**2 / 2, (2 * math.pi / dl) ** 2
        self.twopi, self.twopi_sq = 2 * math.pi, (2 * math.pi) ** 2
        self.remove_self_interaction, self.norm_factor = remove, prefactor
        self.use_epsilon_r_scaling = False


class BEC(torch.nn.Module):
    """Parameters of Born effective charges, under the names that MACE-LES files use."""

    def __init__(self) -> None:
        super().__init__()
        self.remove_mean, self.epsilon_factor, self.normalization_factor = True, 1.0, 1.0


class _DummyAtomwise(torch.nn.Module):
    """MACE predicts the charges with readouts of its own."""


class Les(torch.nn.Module):
    """LES energy of a batch with one structure, by autograd through an O(N * vectors) sum.

    Args:
        les_arguments: ``sigma``, ``dl``, ``prefactor`` and ``remove_self_interaction``; what is
            missing is taken from `defaults`.
    """

    #: mace-torch forgets the arguments when it builds a model again, to compile or convert it.
    defaults: ClassVar[dict[str, Any]] = {
        "sigma": 1.0,
        "dl": 2.0,
        "prefactor": 90.4756,
        "remove_self_interaction": True,
    }

    def __init__(self, les_arguments: dict[str, Any]) -> None:
        super().__init__()
        known = self.defaults | les_arguments
        self.sigma, self.dl = known["sigma"], known["dl"]
        self.remove_self_interaction = known["remove_self_interaction"]
        self.use_atomwise = False
        self.atomwise, self.bec = _DummyAtomwise(), BEC()
        self.ewald = Ewald(self.sigma, self.dl, known["prefactor"], self.remove_self_interaction)

    @property
    def arguments(self) -> dict[str, Any]:
        """With which it was made."""
        return {
            "sigma": self.sigma,
            "dl": self.dl,
            "prefactor": self.ewald.norm_factor,
            "remove_self_interaction": self.remove_self_interaction,
        }

    def forward(
        self, latent_charges: torch.Tensor, positions: torch.Tensor, cell: torch.Tensor, **_: Any
    ) -> dict[str, torch.Tensor | None]:
        q, cell = latent_charges.reshape(-1), cell.view(3, 3)
        periodic = bool(cell.abs().sum() > 0)
        energy = self._periodic(q, positions, cell) if periodic else self._open(q, positions)
        if periodic == self.remove_self_interaction:
            own = self.ewald.norm_factor * (q * q).sum() / (self.sigma * (2 * math.pi) ** 1.5)
            energy = energy - own if periodic else energy + own
        return {"E_lr": energy.view(1), "BEC": None}

    def _periodic(self, q: torch.Tensor, r: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        limits = (cell.norm(dim=1) / self.dl).int().tolist()
        axes = [torch.arange(-n, n + 1, dtype=r.dtype, device=r.device) for n in limits]
        # k and -k contribute alike: one of the two, counted twice.
        n = torch.cartesian_prod(*axes)
        order = n @ torch.tensor([1.0, 1e-3, 1e-6], dtype=r.dtype, device=r.device)
        k = n[order > 0] @ (2 * math.pi * torch.linalg.inv(cell).T)
        k2 = (k * k).sum(1)
        inside = k2 <= (2 * math.pi / self.dl) ** 2
        k, k2 = k[inside], k2[inside]
        phase = r @ k.T
        structure = (q @ phase.cos()) ** 2 + (q @ phase.sin()) ** 2
        weights = 2.0 * torch.exp(-0.5 * self.sigma**2 * k2) / k2
        return self.ewald.norm_factor / torch.linalg.det(cell) * (weights * structure).sum()

    def _open(self, q: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        i, j = torch.triu_indices(len(r), len(r), 1)
        distance = (r[i] - r[j]).norm(dim=1)
        kernel = torch.erf(distance / (self.sigma * math.sqrt(2))) / distance
        return self.ewald.norm_factor / (2 * math.pi) * (q[i] * q[j] * kernel).sum()


def register_stand_in() -> None:
    """Gives mace-torch, and the pickle of a model, the stand-ins under the names they look for."""
    places: dict[str, list[type]] = {
        "les": [],
        "les.les": [Les, _DummyAtomwise],
        "les.module": [],
        "les.module.ewald": [Ewald],
        "les.module.bec": [BEC],
    }
    for name, classes in places.items():
        module = types.ModuleType(name)
        for cls in classes:
            cls.__module__ = name
            setattr(module, cls.__name__, cls)
        sys.modules[name] = module
    sys.modules["les"].Les = Les  # type: ignore[attr-defined]


def mace_model(path: Path) -> torch.nn.Module:
    """mace-torch's MACELES object, float32, with the weights of a MACE-LES file of any vintage."""
    canonical, record = read_model(path), open_model(path).root
    hyper, layers = canonical.hyper, canonical.hyper["layers"]
    register_stand_in()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import mace  # noqa: F401 - sets what e3nn needs to be imported
        from e3nn import o3
        from mace.modules import blocks, extensions

        degrees = range(layers[0]["output_lmax"] + 1)
        hidden = [(hyper["channels"], (degree, (-1) ** degree)) for degree in degrees]
        widths = [len(w) for n, w in canonical.state.items() if n.startswith("layers.0.radial.")]
        model = extensions.MACELES(
            les_arguments=dict(canonical.les),
            r_max=hyper["cutoff"],
            num_bessel=hyper["num_bessel"],
            num_polynomial_cutoff=hyper["cutoff_order"],
            max_ell=hyper["lmax"],
            interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
            interaction_cls_first=blocks.RealAgnosticResidualInteractionBlock,
            num_interactions=len(layers),
            num_elements=len(hyper["elements"]),
            hidden_irreps=o3.Irreps(hidden),
            MLP_irreps=o3.Irreps(f"{layers[-1]['readout_width']}x0e"),
            atomic_energies=canonical.state["reference_energies"].numpy(),
            avg_num_neighbors=float(record.items("interactions")[0].value("avg_num_neighbors")),
            atomic_numbers=hyper["elements"],
            correlation=layers[0]["correlation"],
            gate=torch.nn.functional.silu,
            radial_MLP=widths[1:],
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
            # Else the couplings depend on whether cuequivariance is installed.
            use_reduced_cg=False,
        )
    give_weights(model, record.state_dict())
    return model.float().eval()


def without_charges(model: torch.nn.Module) -> torch.nn.Module:
    """The short-range network of a MACELES object, as mace-torch's plain class.

    mace-torch 0.3.16 can neither script MACELES nor compile it (it gets forces of zero).
    """
    from mace.modules.models import ScaleShiftMACE
    from mace.tools.scripts_utils import extract_config_mace_model

    plain = ScaleShiftMACE(**extract_config_mace_model(model)).float()
    give_weights(plain, model.state_dict())
    return plain.eval()


def give_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Copies weights by name; shapes of scalars differ between vintages."""
    own = model.state_dict()
    missing = {n for n in own if n not in weights and "U_matrix" not in n and "_zeroed" not in n}
    constants = ("output_mask", "_compiled_main")  # of e3nn, the same in every model
    missing = {n for n in missing if own[n].numel() > 0 and not any(c in n for c in constants)}
    if missing:
        raise RuntimeError(f"weights missing from the file: {sorted(missing)}")
    found = {n: weights[n].reshape(t.shape) for n, t in own.items() if n in weights}
    model.load_state_dict({**own, **found})


def plain_energy_and_forces(model: torch.nn.Module, atoms: Any) -> tuple[float, np.ndarray]:
    """Energy [eV] and forces [eV/A] of the peer model, to prove that both compute the same."""
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    config = data.config_from_atoms(atoms)
    batch = torch_geometric.Batch.from_data_list(
        [data.AtomicData.from_config(config, z_table=table, cutoff=float(model.r_max))]
    )
    out = model(batch.to_dict(), compute_force=True)
    return float(out["energy"].detach()), out["forces"].detach().numpy()
