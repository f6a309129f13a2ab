"""Synthetic MACE-LES ``.model`` files: mace-torch's own MACELES class, random weights, any size.

mace-torch's MACELES needs the les package. What it takes from there when it is constructed is three
classes that hold parameters; stand-ins of that kind, written here, are registered under the names
of the originals while a model is built and pickled, and removed afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

DEFAULTS: dict[str, Any] = {
    "elements": [1, 8],
    "channels": 4,
    "max_L": 0,
    "max_ell": 3,
    "interactions": 2,
    "correlation": 3,  # or one per layer
    "num_bessel": 6,
    "cutoff": 4.0,
    "cutoff_order": 5,
    "radial_MLP": [8, 8],
    "readout_width": 5,
    "dtype": "float32",
    "vintage": "new",  # or "old": the fork of 2025
    "seed": 0,
    "les": {},  # see _les_modules
    "options": {},  # passed to MACELES as they are
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# Parameter-holding classes of the les package.


class Ewald(torch.nn.Module):
    def __init__(
        self, sigma: float, dl: float, remove: bool, norm_factor: float, new: bool
    ) -> None:
        super().__init__()
        self.sigma, self.dl, self.remove_self_interaction = sigma, dl, remove
        self.sigma_sq_half, self.k_sq_max = sigma**2 / 2.0, (2 * math.pi / dl) ** 2
        self.twopi, self.twopi_sq = 2 * math.pi, (2 * math.pi) ** 2
        self.norm_factor = norm_factor
        if new:
            self.use_epsilon_r_scaling = False


class BEC(torch.nn.Module):
    def __init__(self, remove_mean: bool, epsilon_factor: float) -> None:
        super().__init__()
        self.remove_mean, self.epsilon_factor = remove_mean, epsilon_factor
        self.normalization_factor = epsilon_factor**0.5


class Atomwise(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n_in, self.n_out, self.n_hidden, self.n_layers = None, 1, [32, 16], 3
        self.activation = torch.nn.functional.silu
        self.add_linear_nn, self.bias, self.output_scaling_factor = True, True, 0.1
        self.outnet = None


class _DummyAtomwise(torch.nn.Module):
    pass


class Les(torch.nn.Module):
    new: bool

    def __init__(self, les_arguments: dict[str, Any]) -> None:
        super().__init__()
        known = {
            "sigma": 1.0,
            "dl": 2.0,
            "remove_self_interaction": self.new,
            "norm_factor": 90.4756 if self.new else 90.0474,
            "remove_mean": True,
            "epsilon_factor": 1.0,
        } | les_arguments
        self.n_layers, self.n_hidden, self.add_linear_nn = 3, [32, 16], True
        self.output_scaling_factor = 0.1
        self.sigma, self.dl = known["sigma"], known["dl"]
        self.remove_mean, self.epsilon_factor = known["remove_mean"], known["epsilon_factor"]
        if self.new:
            self.remove_self_interaction = known["remove_self_interaction"]
            self.use_atomwise = self.use_fixed_atomic_charges = False
            self.fixed_atomic_charges_scaling_factor = 0.5
            self.use_atomic_alpha = self.use_epsilon_r_scaling = False
        self.atomwise = _DummyAtomwise() if self.new else Atomwise()
        numbers = ("sigma", "dl", "remove_self_interaction", "norm_factor")
        self.ewald = Ewald(*(known[name] for name in numbers), self.new)
        self.bec = BEC(known["remove_mean"], known["epsilon_factor"])

    def forward(self, **_: Any) -> dict[str, None]:
        """No electrostatics: what remains of the model's energy is the short-range part."""
        return {"E_lr": None, "BEC": None}


def _les_modules(vintage: str) -> dict[str, types.ModuleType]:
    """Modules les, les.les, les.module.* with the classes of a vintage."""
    own = type("Les", (Les,), {"new": vintage == "new"})
    places = {
        "les": [],
        "les.les": [own, _DummyAtomwise],
        "les.module": [],
        "les.module.ewald": [Ewald],
        "les.module.bec": [BEC],
        "les.module.atomwise": [Atomwise],
    }
    modules = {}
    for name, classes in places.items():
        modules[name] = types.ModuleType(name)
        for cls in classes:
            cls.__module__, cls.__qualname__ = name, cls.__name__
            setattr(modules[name], cls.__name__, cls)
    modules["les"].Les = own  # type: ignore[attr-defined]
    return modules


@contextlib.contextmanager
def les_stand_in(vintage: str) -> Iterator[None]:
    """Makes ``from les import Les`` work for the time being."""
    modules = _les_modules(vintage)
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def build_model(**hyper: Any) -> torch.nn.Module:
    """A MACELES object; call it inside `les_stand_in` of the same vintage.

    Weights are scaled so that energies, forces and charges are of physical size.
    """
    unknown = set(hyper) - set(DEFAULTS)
    if unknown:
        raise ValueError(f"unknown hyper-parameters {sorted(unknown)}")
    h = DEFAULTS | hyper
    with quiet():
        import mace  # noqa: F401 - before e3nn
        from e3nn import o3
        from mace.modules import blocks, extensions

        default = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, h["dtype"]))
        torch.manual_seed(h["seed"])
        try:
            hidden = o3.Irreps([(h["channels"], (d, (-1) ** d)) for d in range(h["max_L"] + 1)])
            options = {
                "interaction_cls": blocks.RealAgnosticResidualInteractionBlock,
                "interaction_cls_first": blocks.RealAgnosticResidualInteractionBlock,
                "gate": torch.nn.functional.silu,
                "MLP_irreps": o3.Irreps(f"{h['readout_width']}x0e"),
            } | _resolved(h["options"], blocks, o3)
            hidden = options.pop("hidden_irreps", hidden)
            arguments = {
                "les_arguments": h["les"],
                "r_max": h["cutoff"],
                "num_bessel": h["num_bessel"],
                "num_polynomial_cutoff": h["cutoff_order"],
                "max_ell": h["max_ell"],
                "num_interactions": h["interactions"],
                "num_elements": len(h["elements"]),
                "hidden_irreps": hidden,
                "atomic_energies": -2.0 - 0.37 * np.arange(len(h["elements"])),
                "avg_num_neighbors": 7.3,
                "atomic_numbers": h["elements"],
                "correlation": h["correlation"],
                "radial_MLP": h["radial_MLP"],
                "atomic_inter_scale": 0.8,
                "atomic_inter_shift": 0.05,
            }
            model = extensions.MACELES(**(arguments | options))
            with torch.no_grad():
                for readout in model.les_readouts:
                    for parameter in readout.parameters():
                        parameter.mul_(0.6)
            if h["vintage"] == "old":
                _make_old(model, h, hidden)
        finally:
            torch.set_default_dtype(default)
    return model


def _resolved(options: dict[str, Any], blocks: Any, o3: Any) -> dict[str, Any]:
    """Options by their text, so that they can be written down without importing mace-torch."""
    resolved = dict(options)
    for name in ("interaction_cls", "interaction_cls_first", "readout_cls"):
        if name in options:
            resolved[name] = getattr(blocks, options[name])
    for name in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if name in options:
            resolved[name] = o3.Irreps(options[name])
    if "gate" in options:
        resolved["gate"] = {"tanh": torch.tanh, "abs": torch.abs}[options["gate"]]
    if "cueq_config" in options:
        from mace.modules.wrapper_ops import CuEquivarianceConfig

        resolved["cueq_config"] = CuEquivarianceConfig(**options["cueq_config"])
    if "atomic_energies" in options:
        resolved["atomic_energies"] = np.array(options["atomic_energies"])
    return resolved


def _make_old(model: torch.nn.Module, h: dict[str, Any], hidden: Any) -> None:
    """Takes away what the fork of 2025 did not have."""
    from mace.modules import blocks

    if h["interactions"] == 1 and h["max_L"] > 0:
        # There a single layer kept all its irreps, although its readout takes scalars only.
        first, product = model.interactions[0], model.products[0]
        model.interactions[0] = type(first)(
            node_attrs_irreps=first.node_attrs_irreps,
            node_feats_irreps=first.node_feats_irreps,
            edge_attrs_irreps=first.edge_attrs_irreps,
            edge_feats_irreps=first.edge_feats_irreps,
            target_irreps=first.target_irreps,
            hidden_irreps=hidden,
            avg_num_neighbors=first.avg_num_neighbors,
            radial_MLP=first.radial_MLP,
        )
        model.products[0] = type(product)(
            node_feats_irreps=first.target_irreps,
            target_irreps=hidden,
            correlation=h["correlation"],
            num_elements=len(h["elements"]),
            use_sc=True,
        )
        model.readouts[0] = blocks.LinearReadoutBlock(hidden)
        model.les_readouts[0] = blocks.LinearReadoutBlock(hidden)
    for name in (
        *("lammps_mliap", "apply_cutoff", "edge_irreps", "use_reduced_cg", "use_agnostic_product"),
        *("use_so3", "use_last_readout_only", "use_edge_irreps_first", "readout_input_dims"),
    ):
        model.__dict__.pop(name, None)
    model.radial_embedding.__dict__.pop("apply_cutoff", None)
    for interaction in model.interactions:
        for name in ("edge_irreps", "oeq_config"):
            interaction.__dict__.pop(name, None)
    for product in model.products:
        product.__dict__.pop("use_agnostic_product", None)
        for contraction in product.symmetric_contractions.contractions:
            for name in [n for n in contraction._buffers if n.endswith("_zeroed")]:
                del contraction._buffers[name]


def save_model(model: torch.nn.Module, path: Path, vintage: str = "new") -> Path:
    """Pickles a model under the class name of its vintage; call it inside `les_stand_in`."""
    with quiet():
        import mace.modules.models as models
        from mace.modules import extensions

        if vintage == "new":
            torch.save(model, path)
            return path
        old = type("MACELES", (extensions.MACELES,), {"__module__": "mace.modules.models"})
        models.MACELES = old  # type: ignore[attr-defined]
        new, model.__class__ = type(model), old
        try:
            torch.save(model, path)
        finally:
            model.__class__ = new
            del models.MACELES  # type: ignore[attr-defined]
    return path


def synthetic_model(directory: Path, **hyper: Any) -> Path:
    """A ``.model`` file with given hyper-parameters (see `DEFAULTS`), made once per directory."""
    options = {name: str(value) for name, value in hyper.get("options", {}).items()}
    key = json.dumps(hyper | {"options": options}, sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    path = Path(directory) / f"{name}.model"
    if not path.exists():
        vintage = hyper.get("vintage", "new")
        with les_stand_in(vintage):
            part = path.with_suffix(".part")
            save_model(build_model(**hyper), part, vintage)
            part.replace(path)
    return path


def original_short_range(
    hyper: dict[str, Any],
    positions: np.ndarray,
    numbers: np.ndarray,
    cell: np.ndarray | None = None,
    head: int = 0,
    **conditions: Any,
) -> tuple[float, np.ndarray]:
    """Energy without electrostatics, and latent charges, by the model's own forward in float64.

    `conditions` are inputs of its `embedding_specs`: numbers, or for atoms arrays.
    """
    model = _built(json.dumps(hyper))  # the order of embeddings counts
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of numbers in its code
    try:
        return _evaluated(model, positions, numbers, cell, head, conditions)
    finally:
        torch.set_default_dtype(default)


def _evaluated(
    model: torch.nn.Module,
    positions: np.ndarray,
    numbers: np.ndarray,
    cell: np.ndarray | None,
    head: int,
    conditions: dict[str, Any],
) -> tuple[float, np.ndarray]:
    with quiet():
        from mace.data.neighborhood import get_neighborhood

        periodic = (cell is not None,) * 3
        edges, shifts, unit_shifts, used_cell = get_neighborhood(
            positions=positions.copy(),
            cutoff=float(model.r_max),
            pbc=periodic,
            cell=None if cell is None else cell.copy(),
        )
        elements = model.atomic_numbers.tolist()
        species = torch.tensor([elements.index(int(z)) for z in numbers])
        out = model(
            {
                "positions": torch.tensor(positions),
                "node_attrs": torch.nn.functional.one_hot(species, len(elements)).double(),
                "edge_index": torch.tensor(edges, dtype=torch.int64),
                "shifts": torch.tensor(shifts),
                "unit_shifts": torch.tensor(unit_shifts, dtype=torch.float64),
                "cell": torch.tensor(used_cell),
                "pbc": torch.tensor([periodic]),
                "batch": torch.zeros(len(numbers), dtype=torch.int64),
                "ptr": torch.tensor([0, len(numbers)]),
                "head": torch.tensor([head]),
                # As mace-torch's AtomicData: [graphs], and [atoms, 1].
                **{
                    name: torch.tensor(np.reshape(value, (-1, 1)[: 1 + np.ndim(value)]))
                    for name, value in conditions.items()
                },
            },
            compute_force=False,
        )
    return float(out["energy"].detach()), out["latent_charges"].detach().numpy()


@functools.cache
def _built(hyper: str) -> torch.nn.Module:
    """The model of `synthetic_model`: same seed, hence same weights."""
    h = json.loads(hyper)
    old = h.get("vintage") == "old" and h.get("interactions") != 1
    if old:
        # Except for the single layer, only attributes were taken away, which forward needs.
        h["vintage"] = "new"
    with les_stand_in(h.get("vintage", "new")):
        return build_model(**h).double()
