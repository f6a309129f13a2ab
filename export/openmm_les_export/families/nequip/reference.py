"""The original model, for verification: networks of nequip and allegro with the weights of a file.

The readouts of charges and other scalars that NequIP-LES adds are made of their modules, those of
moments evaluated a second time from nequip's features. No other file imports nequip.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as installed
from typing import Any

import torch
from torch import Tensor, nn

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import VerificationError
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.e3nn_weights import sign_of_symbol
from openmm_les_export.families.nequip.accepted import base_model, check_configuration
from openmm_les_export.families.nequip.checkpoint import (
    HYPER,
    NETWORK,
    STATE,
    symbols_version,
    version,
)
from openmm_les_export.families.nequip.layout import NATURAL_PARITY
from openmm_les_export.families.nequip.moments import ALLEGRO, NEQUIP, Readout
from openmm_les_export.verification.multipoles import Moments
from openmm_les_export.verification.reference import (
    ORIGINAL_NETWORK,
    AutogradReference,
    double_precision,
)

#: Options that a network does not take.
_NOT_OF_NETWORKS = ("_target_", "base_model", "LES", "use_les", "les_args", "compile_mode")


class NequIPReference(AutogradReference):
    """A NequIP-LES or Allegro-LES model in float64, evaluated with nequip's modules.

    The LES parameters are those of its canonical form.
    """

    def __init__(self, checkpoint: ModelFile, canonical: CanonicalModel) -> None:
        import nequip  # noqa: F401

        self.versions = {name: installed(name) for name in ("nequip", "e3nn")}
        model, arguments = check_configuration(checkpoint[HYPER])
        self.cutoff = Options(model).positive("r_max")
        self.elements = Options(model).elements("type_names")
        self._les = canonical.les
        if canonical.hyper.get("moments"):
            self.against = ORIGINAL_NETWORK
        with _undisturbed():
            self._network = _build(model, checkpoint)
            self._latents = _Latents(model, arguments, checkpoint)

    def _short_range(
        self, vectors: Tensor, sender: Tensor, receiver: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor | Moments]:
        # Their pairs go from the atom that collects to its neighbour.
        data = {
            "pos": torch.zeros(len(species), 3),
            "atom_types": species,
            "edge_index": torch.stack([receiver, sender]),
            "edge_vectors": -vectors,
            "edge_lengths": torch.linalg.norm(vectors, dim=1),
        }
        out = self._network(data)
        return out["atomic_energy"], self._latents(out)

    def _settings(self) -> contextlib.AbstractContextManager[None]:
        return _undisturbed()


class _Latents:
    """Charges or moments, from what the readouts of a file give in the network."""

    def __init__(
        self, model: Mapping[str, Any], arguments: Mapping[str, Any], checkpoint: ModelFile
    ) -> None:
        state = checkpoint[STATE]
        self._found = _readouts(model, checkpoint)
        self._bases = {
            each.name: state[f"{NETWORK}{each.basis}.change_of_basis_2e"].double()
            for each in self._found
            if each.basis
        }
        self._options = Options(arguments)
        self._anisotropic = bool(arguments.get("use_anisotropic_polarizability"))
        is_allegro = base_model(model) == "allegro"
        self._neighbors = Options(model).positive("avg_num_neighbors") if is_allegro else 0.0

    def __call__(self, out: Mapping[str, Tensor]) -> Tensor | Moments:
        total: dict[str, Tensor] = {}
        for readout in self._found:
            if self._neighbors:
                part = self._of_pairs(readout, out)
            else:
                part = self._cartesian(readout, out[readout.name])
            known = total.get(readout.moment)
            total[readout.moment] = part if known is None else known + part
        charges = total.pop("charges")[:, 0]
        if not total:
            return charges
        if (tensors := total.get("quadrupoles")) is not None:
            trace = torch.einsum("naa->n", tensors)[:, None, None] / 3
            total["quadrupoles"] = tensors - trace * torch.eye(3)
        for name in ("kappa", "alpha"):
            if name in total:
                scale = self._options.positive(f"{name}_scale", 0.1)
                total[name] = scale * self._positive(total[name])
        return Moments(charges, **total)

    def _of_pairs(self, readout: Readout, out: Mapping[str, Tensor]) -> Tensor:
        """Sums over neighbours of a factor times harmonics, which point to them."""
        factors, harmonics = out[readout.name], out["edge_attrs"]
        places = {"vectors": (1, 4), "squares": (1, 4), "tensors": (4, 9)}.get(readout.kind, (0, 1))
        parts = self._cartesian(readout, harmonics[:, places[0] : places[1]])
        parts = parts * factors.reshape(len(parts), *[1] * (parts.dim() - 1))
        sums = parts.new_zeros(len(out["atom_types"]), *parts.shape[1:])
        scaled: Tensor = parts * (2 * self._neighbors) ** -0.5
        return sums.index_add(0, out["edge_index"][0], scaled)

    def _cartesian(self, readout: Readout, components: Tensor) -> Tensor:
        if readout.kind == "squares":
            return torch.einsum("na,nb->nab", components, components)
        if readout.kind == "tensors":
            return torch.einsum("nm,mab->nab", components, self._bases[readout.name])
        if readout.moment == "alpha" and self._anisotropic:
            return components[:, :, None] * torch.eye(3)
        return components[:, 0] if readout.moment in ("kappa", "alpha") else components

    def _positive(self, values: Tensor) -> Tensor:
        if not self._options.flag("kappa_alpha_positive", True):
            return values
        if values.dim() == 1:
            return torch.nn.functional.softplus(values)
        product: Tensor = values @ values.transpose(1, 2)
        return product


def _readouts(model: Mapping[str, Any], checkpoint: ModelFile) -> list[Readout]:
    """Those that a file has weights of."""
    table = ALLEGRO if base_model(model) == "allegro" else NEQUIP
    names = [name.removeprefix(NETWORK).partition(".")[0] for name in checkpoint[STATE]]
    return [readout for readout in table if readout.name in names]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps warnings, default precision and random numbers as they were: nequip sets them."""
    from lightning.pytorch.utilities.seed import isolate_rng

    with isolate_rng(), double_precision():
        yield


def _build(model: Mapping[str, Any], checkpoint: ModelFile) -> nn.Module:
    """The network up to energies and charges of atoms, with the weights of the file."""
    from nequip.utils.global_state import set_global_state

    set_global_state()
    options = {name: value for name, value in model.items() if name not in _NOT_OF_NETWORKS}
    options |= {"model_dtype": "float64", "do_derivatives": False}
    # Older versions took None for this.
    options["avg_num_neighbors"] = options.get("avg_num_neighbors") or 1.0
    for name in ("per_type_energy_scales", "per_type_energy_shifts"):
        options[name] = _by_type(options.get(name), model["type_names"])
    if base_model(model) == "allegro":
        from allegro.model import AllegroModel

        made = AllegroModel(**options)
    elif version(checkpoint[HYPER], "nequip") < NATURAL_PARITY:
        made = _older(options)
    else:
        from nequip.model import NequIPGNNModel

        made = NequIPGNNModel(**options)
    network = made.model.func if hasattr(made.model, "func") else made.model
    del network._modules["total_energy_sum"]
    _add_readouts(model, network, _readouts(model, checkpoint))
    _load(network, checkpoint)
    if base_model(model) == "nequip":
        _turn_symbols(network, symbols_version(checkpoint[HYPER]))
    return network.eval()  # type: ignore[no-any-return]


def _by_type(value: Any, types: list[str]) -> Any:
    """Numbers by type, as newer versions want them."""
    if isinstance(value, list | tuple):
        return dict(zip(types, value, strict=True))
    return value


def _older(options: dict[str, Any]) -> Any:
    """A model with the irreps of nequip before 0.16, made by today's."""
    from e3nn.o3 import Irreps
    from nequip.model.nequip_models import FullNequIPGNNModel

    chosen = Options(options)
    lmax, parity = chosen.integer("l_max", 1, 0), chosen.flag("parity", True)
    layers, features = chosen.integer("num_layers", 4, 1), chosen.integer("num_features", 32, 1)
    parities = (1, -1) if parity else (1,)
    hidden = Irreps([(features, (degree, p)) for p in parities for degree in range(lmax + 1)])
    own = ("l_max", "parity", "num_layers", "num_features", "radial_mlp_depth", "radial_mlp_width")
    return FullNequIPGNNModel(
        **{name: value for name, value in options.items() if name not in own},
        radial_mlp_depth=[chosen.integer("radial_mlp_depth", 2, 0)] * layers,
        radial_mlp_width=[chosen.integer("radial_mlp_width", 64, 1)] * layers,
        feature_irreps_hidden=[repr(hidden)] * (layers - 1) + [f"{features}x0e"],
        irreps_edge_sh=repr(Irreps.spherical_harmonics(lmax, p=-1 if parity else 1)),
        type_embed_num_features=features,
    )


def _add_readouts(model: Mapping[str, Any], network: Any, found: Sequence[Readout]) -> None:
    """Adds what NequIP-LES does, by the names in checkpoints; results have the same names."""
    from nequip.nn import AtomwiseLinear, ScalarMLP

    is_allegro = base_model(model) == "allegro"
    last = f"layer{Options(model).integer('num_layers', 4, 1) - 1}_convnet"
    for readout in found:
        if is_allegro or readout.kind == "scalars":
            hidden = {
                "hidden_layers_depth": 1,
                "hidden_layers_width": model.get("readout_mlp_hidden_layers_width", 32),
            }
            network._modules[readout.name] = ScalarMLP(
                output_dim=1,
                field="edge_features" if is_allegro else "node_features",
                out_field=readout.name,
                irreps_in=dict(network.irreps_out),
                **(hidden if is_allegro else {}),
            )
        else:
            linear = AtomwiseLinear(
                field="node_features",
                out_field=readout.name,
                irreps_in=network._modules[last].irreps_in,
                irreps_out="1x2e" if readout.kind == "tensors" else "1x1o",
            )
            network.insert(readout.name, linear, before=last)


def _turn_symbols(network: nn.Module, trained: tuple[int, ...]) -> None:
    """Turns weights of paths whose Wigner 3j symbol had the other sign in the training's e3nn."""
    module: Any
    for module in network.modules():
        if not hasattr(module, "tp_scatter"):
            continue
        product = module.tp_scatter.tp
        nodes, edges, out = product.irreps_in1, product.irreps_in2, product.irreps_out
        signs = torch.cat(
            [
                sign_of_symbol(trained, (nodes[path.i_in1].ir.l, edges[path.i_in2].ir.l, degree))
                * torch.ones(nodes[path.i_in1].mul)
                for path in product.instructions
                for degree in (out[path.i_out].ir.l,)
            ]
        )
        module.edge_mlp.mlp[-1].weight.data *= signs


def _load(network: nn.Module, checkpoint: ModelFile) -> None:
    """Puts the weights of the file into the network, averages where there are any."""
    given = {
        name[len(NETWORK) :].replace(".conv.tp.", ".conv.tp_scatter.tp."): tensor
        for name, tensor in checkpoint[STATE].items()
        if name.startswith(NETWORK)
    }
    own = network.state_dict()
    parameters = dict(network.named_parameters())
    trained = [name for name in given if name in parameters and parameters[name].numel()]
    averages = [name for name in checkpoint[STATE] if name.startswith("ema.ema_weight_")]
    if averages:
        for i, name in enumerate(trained):
            given[name] = checkpoint[STATE][f"ema.ema_weight_{i}"]
    missing = sorted(set(parameters) - set(given))
    if missing or (averages and len(averages) != len(trained)):
        raise VerificationError(
            f"verification: the installed nequip has another layout than {checkpoint.file}, "
            f"without {missing or 'as many averages'}; try another version of nequip"
        )
    for name, tensor in own.items():
        if name in given and tensor.numel() and not name.endswith("output_mask"):
            target = tensor.shape
            value = given[name].to(tensor.dtype).reshape(given[name].shape or ())
            if name.endswith((".scales", ".shifts")):
                value = value.reshape(-1, 1).expand(target)
            if value.shape != target:
                raise VerificationError(
                    f"verification: {name}: expected shape {tuple(target)} for the installed "
                    f"nequip, got {tuple(value.shape)}"
                )
            tensor.copy_(value)
