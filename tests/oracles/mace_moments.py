"""Synthetic MACE ``.model`` files with latent moments: mace-torch's modules and what they lack.

mace-torch up to 0.3.16 has no readouts of tensors. Stand-ins with the same parameters and names are
registered while a file is written; nothing ever runs them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from oracles.mace_models import build_model, les_stand_in, quiet, save_model

#: Fixed charges [e] and polarizabilities [Bohr^3] by element.
CHARGES = {1: 1, 6: 4, 7: -3, 8: -2}
ALPHA = {1: 4.5, 6: 11.3, 7: 7.4, 8: 5.3}
#: Of `ALPHA` to e A^2/V; not what the original code has there, which must not be taken for it.
ALPHA_FACTOR = 0.0123
#: What a model may have, by the names of mace-torch.
ALL: dict[str, Any] = {
    "use_dipoles": True,
    "use_quads": True,
    "use_induced_charges": True,
    "use_induced_dipoles": True,
    "use_anisotropic_polarizability": True,
    "alpha_irreps": "0e+1o+2e",
    "alpha_1o_linear_w_pos": True,
    "make_alpha_positive": True,
    "make_kappa_positive": True,
    "les_output_scale": 0.1,
    "les_kappa_scale": 0.1,
    "les_alpha_scale": 0.1,
    #: Which tensor readouts are nonlinear; in mace-torch one switch is for both.
    "quads_nonlinear": False,
    "alpha_nonlinear": True,
    "tables": True,
}


class FixedCharges(torch.nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.charge_dict, self.normalization_factor = CHARGES, factor


class AtomicAlpha(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alpha_dict, self.normalization_factor = ALPHA, ALPHA_FACTOR


class _OuterProducts(torch.nn.Module):
    def __init__(self, irreps: Any) -> None:
        from e3nn import o3

        super().__init__()
        channels = irreps[0].mul
        self.irreps_in, self.ir_mul = irreps, False
        self.linear = o3.Linear(irreps, irreps)
        self.scalar_slices = [(0, channels)]
        self.vector_1o_slices = [(channels, 4 * channels)]
        self.n_scalar = self.n_1o = channels


class LinearLesReadoutBlock(_OuterProducts):
    def __init__(self, irreps: Any, make_w_pos: bool) -> None:
        super().__init__(irreps)
        self.make_w_pos, self.vector_1e_slices, self.n_1e = make_w_pos, [], 0
        self.scalar_to_weight_1o = torch.nn.Linear(self.n_scalar, self.n_1o)
        self.scalar_to_weight_1e = None


class NonLinearLesReadoutBlock(_OuterProducts):
    def __init__(self, irreps: Any) -> None:
        super().__init__(irreps)
        n = self.n_scalar
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(n, 4), torch.nn.SiLU(), torch.nn.Linear(4, n * n)
        )


_PLACES = {
    LinearLesReadoutBlock: "mace.modules.blocks",
    NonLinearLesReadoutBlock: "mace.modules.blocks",
    FixedCharges: "les.module.fixedcharges",
    AtomicAlpha: "les.module.atomicalpha",
}


@contextlib.contextmanager
def _registered() -> Iterator[None]:
    """Makes the stand-ins known under the names of the originals, and leaves compiled code out."""
    import importlib
    import sys
    import types

    from e3nn.util.codegen import CodeGenMixin

    def without_code(self: Any) -> dict[str, Any]:
        state = {**self.__dict__, "_modules": dict(self._modules)}
        for name in state.pop("__codegen__", {}):
            del state["_modules"][name]
        return state

    with contextlib.ExitStack() as stack:
        for cls, place in _PLACES.items():
            if place.startswith("les."):
                module = types.ModuleType(place)
                stack.enter_context(mock.patch.dict(sys.modules, {place: module}))
            module = importlib.import_module(place)
            stack.enter_context(mock.patch.object(module, cls.__name__, cls, create=True))
            cls.__module__, cls.__qualname__ = place, cls.__name__
        stack.enter_context(mock.patch.object(CodeGenMixin, "__getstate__", without_code))
        yield


def _add_readouts(model: Any, h: dict[str, Any]) -> None:
    """The lists of readouts, as mace-torch fills them."""
    from e3nn import o3
    from mace.modules import blocks

    def linear(outputs: str) -> Any:
        return blocks.LinearReadoutBlock(irreps, o3.Irreps(outputs))

    def like(readout: Any) -> Any:
        if isinstance(readout, blocks.LinearReadoutBlock):
            return blocks.LinearReadoutBlock(irreps, readout.linear.irreps_out)
        hidden, outputs = readout.hidden_irreps, readout.linear_2.irreps_out
        gate, heads = torch.nn.functional.silu, readout.num_heads
        return blocks.NonLinearReadoutBlock(irreps, hidden, gate, outputs, heads)

    first = model.readouts[0]
    irreps = (first.linear if hasattr(first, "linear") else first.linear_1).irreps_in
    degrees, wanted = irreps.lmax, h["alpha_irreps"]
    tensors = h["use_induced_dipoles"] and h["use_anisotropic_polarizability"]
    lists: dict[str, list[Any]] = {
        f"les_{name}readouts": []
        for name in ("u_", "quad_2e_", "quad_1o_", "alpha_", "alpha_1o_", "alpha_2e_", "kappa_")
    }
    for readout in model.readouts:
        if h["use_dipoles"]:
            lists["les_u_readouts"].append(linear("1x1o"))
        if h["use_quads"] and degrees > 1:
            lists["les_quad_2e_readouts"].append(linear("1x2e"))
        if h["use_quads"] and degrees > 0:
            lists["les_quad_1o_readouts"].append(_outer(irreps, h["quads_nonlinear"], False))
        if h["use_induced_charges"]:
            lists["les_kappa_readouts"].append(like(readout))
        if tensors and degrees > 1 and "2e" in wanted:
            lists["les_alpha_2e_readouts"].append(linear("1x0e+1x2e"))
        if tensors and degrees > 0 and "1o" in wanted:
            made = _outer(irreps, h["alpha_nonlinear"], h["alpha_1o_linear_w_pos"])
            lists["les_alpha_1o_readouts"].append(made)
        if h["use_induced_dipoles"] and (not tensors or "0e" in wanted):
            lists["les_alpha_readouts"].append(like(readout))
    for name, readouts in lists.items():
        setattr(model, name, torch.nn.ModuleList(readouts))
    basis = torch.zeros(6, 3, 3)
    for row, (a, b) in ((1, (0, 2)), (2, (0, 1)), (4, (1, 2))):
        basis[row, a, b] = basis[row, b, a] = 0.5**0.5
    basis[0] = torch.eye(3) / 3**0.5
    basis[3] = torch.diag(torch.tensor([-1.0, 2.0, -1.0])) / 6**0.5
    basis[5] = torch.diag(torch.tensor([-1.0, 0.0, 1.0])) / 2**0.5
    if lists["les_quad_2e_readouts"]:
        model.register_buffer("change_of_basis_quads", basis[1:].clone())
    if lists["les_alpha_2e_readouts"]:
        model.register_buffer("change_of_basis", basis)


def _outer(irreps: Any, nonlinear: bool, positive: bool) -> torch.nn.Module:
    made = NonLinearLesReadoutBlock(irreps) if nonlinear else None
    return made or LinearLesReadoutBlock(irreps, positive)


def write_mace_moments(path: Path, moments: dict[str, Any] | None = None, **hyper: Any) -> Path:
    """A model file with hyper-parameters of `build_model`, and moments as in `ALL`."""
    h = ALL | (moments or {})
    own = {"keep_last_layer_irreps": True} | hyper.pop("options", {})
    with les_stand_in("new"):
        model: Any = build_model(**hyper, options=own)
        with quiet(), _registered(), torch.random.fork_rng():
            torch.manual_seed(hyper.get("seed", 0) + 1)
            _add_readouts(model, h)
            for name, value in h.items():
                if name not in ("quads_nonlinear", "alpha_nonlinear", "tables"):
                    setattr(model, name, value)
            model.alpha_1o_nonlinear_readout = h["alpha_nonlinear"]
            if h["tables"]:
                model.les.use_fixed_atomic_charges = True
                model.les.fixed_atomic_charges_scaling_factor = 0.05
                model.les.fixed_charges = FixedCharges(0.05)
                if h["use_induced_dipoles"]:
                    model.les.use_atomic_alpha, model.les.atomic_alpha = True, AtomicAlpha()
            save_model(model, path)
    return path
