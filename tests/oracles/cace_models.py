"""Small CACE files with LES, of every shape, written without CACE: its classes without code.

What is in the files follows Cheng, npj Comput. Mater. 10, 157 (2024); the layout is that of the
published ones.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openmm_les_export.families.cace.accepted import ACCEPTED
from torch import nn

LES = {"sigma": 1.0, "dl": 2.0, "remove_self_interaction": True, "norm_factor": 90.0474}
#: Isolated-atom energies [eV] for the elements of the synthetic models.
ENERGIES = {1: -13.1, 6: -1029.2, 7: -1485.3, 8: -2042.7}
_ROOTS = ("cace.", "les.")
_PACKAGES = ("cace", "les")
#: Where each of them keeps its modules.
_FOLDERS = {"cace": "modules", "les": "module"}


def default_operation(self, energies):
    """How CACE adds up potentials; nothing calls it."""
    raise NotImplementedError


@contextlib.contextmanager
def _named_classes(extra: Sequence[str] = ()) -> Iterator[Callable[..., Any]]:
    """Makes modules with the names of CACE's classes; they can be pickled inside of the context."""
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if _is_ours(name)}
    classes: dict[str, type] = {}
    sys.modules.update({name: types.ModuleType(name) for name in _PACKAGES})
    for full in [*ACCEPTED.names, *extra]:
        if full.startswith(_ROOTS):
            module, _, name = full.rpartition(".")
            made = sys.modules.setdefault(module, types.ModuleType(module))
            # Pickle looks the method of a sum up by its name.
            body = {"__module__": module, default_operation.__name__: default_operation}
            classes[full] = type(name, (nn.Module,), body)
            setattr(made, name, classes[full])

    def make(kind: str, modules: dict[str, Any] | None = None, **attributes: Any) -> nn.Module:
        (full,) = [name for name in classes if name.endswith(f".{kind}")]
        made = classes[full]()
        for name, value in attributes.items():
            if isinstance(value, torch.Tensor) and name not in ("lxlylz_index",):
                made.register_buffer(name, value)
            else:
                setattr(made, name, value)
        for name, module in (modules or {}).items():
            made.add_module(name, module)
        return made

    try:
        yield make
    finally:
        for name in [name for name in sys.modules if _is_ours(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_ours(name: str) -> bool:
    return name in _PACKAGES or name.startswith(_ROOTS)


def monomials(lmax: int) -> list[tuple[int, int, int]]:
    """Exponents of degree 0 to lmax."""
    triples = list(itertools.product(range(lmax + 1), repeat=3))
    return [t for d in range(lmax + 1) for t in sorted(triples, reverse=True) if sum(t) == d]


def invariants(lmax: int, order: int) -> dict[int, dict[Any, list[list[Any]]]]:
    """Products of sums that no rotation changes.

    The sum over all atoms 1 .. nu of the product of (r_i . r_j)^a_ij, for every choice of exponents
    a_ij that leaves no atom out, is such an invariant; expanding the powers by the multinomial
    theorem gives products of sums of monomials.
    """
    index = {triple: i for i, triple in enumerate(monomials(lmax))}
    found: dict[int, dict[Any, list[list[Any]]]] = {}
    for nu in range(2, order + 1):
        pairs = list(itertools.combinations(range(nu), 2))
        known: dict[Any, Any] = {}
        for powers in itertools.product(range(lmax + 1), repeat=len(pairs)):
            degrees = [
                sum(a for a, p in zip(powers, pairs, strict=True) if i in p) for i in range(nu)
            ]
            connected = nu == 2 or sum(a > 0 for a in powers) >= nu - 1
            if min(degrees) < 1 or max(degrees) > lmax or not connected:
                continue
            key = tuple(sorted(degrees)) + tuple(sorted(powers))
            if key not in known:
                known[key] = _expanded(powers, pairs, nu, index)
        found[nu] = known
    return found


def _expanded(powers, pairs, nu, index) -> list[list[Any]]:
    terms: dict[tuple[int, ...], int] = {}
    choices = [[t for t in monomials(a) if sum(t) == a] for a in powers]
    for chosen in itertools.product(*choices):
        factor = 1
        exponents = [[0, 0, 0] for _ in range(nu)]
        for triple, (i, j) in zip(chosen, pairs, strict=True):
            factor *= math.factorial(sum(triple)) // math.prod(map(math.factorial, triple))
            for axis in range(3):
                exponents[i][axis] += triple[axis]
                exponents[j][axis] += triple[axis]
        product = tuple(sorted(index[tuple(e)] for e in exponents))
        terms[product] = terms.get(product, 0) + factor
    return [[list(product), factor] for product, factor in terms.items()]


@dataclass(frozen=True)
class Shape:
    """What a synthetic model has."""

    elements: Sequence[int] = (1, 8)
    embedding: int = 2
    bessel: int = 4
    functions: int = 3  #: mixed radial ones
    lmax: int = 2
    order: int = 2
    messages: int = 0
    #: Kinds of messages: "memory", "decay", and "network" for a weight of each degree and channel,
    #: "degrees" for one of each degree, or "shared" for one in all.
    kinds: Sequence[str] = ("network",)
    #: "LesWrapper", or CACE's own sum: "FeatureAdd" or "CombinePotential".
    container: str = "LesWrapper"
    wrapped: bool = False  #: "CombinePotential" with a LesWrapper instead of CACE's own sum
    charges: int = 1  #: of each atom
    weight: Any = 1.0  #: of the electrostatics in a sum of potentials
    polarization: float | None = None  #: factor
    hidden: Sequence[int] = (6, 5)
    message_hidden: Sequence[int] = ()
    beside: bool = True  #: a linear map goes beside the networks of energy and charges
    cutoff: float = 4.0
    power: float = 6.0
    dtype: torch.dtype = torch.float32
    old: bool = False  #: as written before some options existed
    scripted: bool = False  #: as written by the branch for TorchScript
    les: Mapping[str, Any] = field(default_factory=dict)


def synthetic_cace(
    path: Path,
    *,
    extra: Sequence[str] = (),
    change: Callable[[nn.Module, Callable[..., Any]], None] | None = None,
    **shape: Any,
) -> Path:
    """Writes a file with random weights, of a `Shape`.

    It may name extra classes, and a change of the model is given it and a maker of classes.
    """
    with _named_classes(extra) as make:
        model = _Builder(Shape(**shape), make).model()
        if change is not None:
            change(model, make)
        torch.save(model, path)
    return path


class _Builder:
    """Makes the modules of a model, with random weights."""

    def __init__(self, shape: Shape, make: Callable[..., Any]) -> None:
        self.shape, self.make = shape, make
        self.generator = torch.Generator().manual_seed(11)
        self.triples = monomials(shape.lmax)
        self.products = invariants(shape.lmax, shape.order)
        self.channels, self.degrees = shape.embedding**2, shape.lmax + 1
        self.width = shape.functions * self.channels * (1 + sum(map(len, self.products.values())))

    def weights(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        random = torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return (scale * random).to(self.shape.dtype)

    def scalar(self, value: float) -> torch.Tensor:
        return torch.tensor(value, dtype=self.shape.dtype)

    def dense(self, package: str, inputs: int, outputs: int, last: bool) -> nn.Module:
        linear = nn.Linear(inputs, outputs, dtype=self.shape.dtype)
        linear.weight.data = self.weights(outputs, inputs, scale=0.3 / inputs**0.5)
        linear.bias.data = self.weights(outputs, scale=0.1)
        own = {"use_batchnorm": False} if package == "cace" and not self.shape.old else {}
        module = self.make(f"{_FOLDERS[package]}.blocks.Dense", {"linear": linear}, **own)
        if self.shape.scripted:
            module.add_module("batchnorm", nn.Identity())
        if last:
            module.add_module("activation", nn.Identity())
        else:
            module.activation = nn.functional.silu
        return module

    def network(self, package: str, widths: Sequence[int]) -> nn.Sequential:
        pairs = list(itertools.pairwise(widths))
        return nn.Sequential(
            *(self.dense(package, a, b, k == len(pairs) - 1) for k, (a, b) in enumerate(pairs))
        )

    def atomwise(self, package: str, outputs: int = 1, **attributes: Any) -> nn.Module:
        hidden, inputs = self.shape.hidden, self.width * (1 + self.shape.messages)
        widths = (inputs, *hidden, outputs)
        modules: dict[str, nn.Module] = {"outnet": self.network(package, widths)}
        if self.shape.beside:
            modules["linear_nn"] = self.dense(package, inputs, outputs, True)
        return self.make(
            f"{_FOLDERS[package]}.atomwise.Atomwise",
            modules,
            add_linear_nn=self.shape.beside,
            n_in=inputs,
            bias=True,
            n_out=outputs,
            n_hidden=list(hidden),
            n_layers=len(hidden) + 1,
            activation=nn.functional.silu,
            **attributes,
        )

    def messages(self) -> nn.ModuleList:
        """Of one layer, in CACE's order."""
        kinds: list[nn.Module | None] = [None, None, None]
        if "memory" in self.shape.kinds:
            lists = {"memory_coef": self.by_degree(0.3)}
            kinds[0] = self.make("NodeMemory", lists, max_l=self.shape.lmax)
        if "decay" in self.shape.kinds:
            lists = {"prefactor": self.by_degree(0.5), "invr0": self.by_degree(0.2)}
            kinds[1] = self.make("MessageAr", lists, channel_dim=self.channels)
        for kind in {"network", "degrees", "shared"} & {*self.shape.kinds}:
            kinds[2] = self.weights_of_messages(kind == "shared", kind != "network")
        return nn.ModuleList(kinds)

    def by_degree(self, scale: float) -> nn.ParameterList:
        shape = self.shape.functions, self.channels
        return nn.ParameterList([self.weights(*shape, scale=scale) for _ in range(self.degrees)])

    def weights_of_messages(self, shared_l: bool, shared_channels: bool) -> nn.Module:
        mixing = [[float(sum(t) == d) for t in self.triples] for d in range(self.degrees)]
        nl, nc = 1 if shared_l else self.degrees, 1 if shared_channels else self.channels
        own = {"l_matrix": torch.tensor(mixing), "nlxlylz": torch.tensor(len(self.triples))}
        return self.make(
            "MessageBchi",
            {"hnet": self.network("cace", (self.width, *self.shape.message_hidden, nl * nc))},
            **({} if shared_l else own),
            shared_l=shared_l,
            shared_channels=shared_channels,
            **dict.fromkeys(("residual", "use_batchnorm"), False),
            n_in=self.width,
            nc=nc,
            nl=nl,
        )

    def representation(self) -> nn.Module:
        shape, make = self.shape, self.make
        elements, lmax, cutoff = shape.elements, shape.lmax, shape.cutoff
        index = torch.full((max(elements) + 1,), -1)
        index[torch.tensor(elements)] = torch.arange(len(elements))
        frequencies = math.pi / cutoff * torch.arange(1, shape.bessel + 1, dtype=shape.dtype)
        sums = [sum(t) for t in self.triples]
        groups = torch.tensor(
            [[sum(l < d for l in sums), sum(l <= d for l in sums)] for d in range(self.degrees)]  # noqa: E741
        )
        embeddings = {
            f"node_embedding_{name}": make(
                "NodeEmbedding",
                embedding_weights=self.weights(len(elements), shape.embedding, scale=0.5),
            )
            for name in ("sender", "receiver")
        }
        transforms = [
            self.weights(shape.bessel, shape.functions, self.channels, scale=0.7)
            for _ in range(self.degrees)
        ]
        modules = {
            "node_onehot": make("NodeEncoder", index_map=index, num_classes=len(elements)),
            **embeddings,
            "edge_coding": make("EdgeEncoder", directed=True),
            "radial_basis": make(
                "BesselRBF",
                bessel_weights=frequencies,
                cutoff=self.scalar(cutoff),
                prefactor=self.scalar((2 / cutoff) ** 0.5),
                n_rbf=shape.bessel,
            ),
            "cutoff_fn": make(
                "PolynomialCutoff", p=self.scalar(shape.power), cutoff=self.scalar(cutoff)
            ),
            "angular_basis": make(
                "AngularComponent", l_max=lmax, lxlylz_list=self.exponents(), lxlylz_index=groups
            ),
            "radial_transform": make(
                "SharedRadialLinearTransform",
                {"weights": nn.ParameterList(transforms)},
                angular_dim_groups=groups,
                max_l=lmax,
            ),
            "symmetrizer": make(
                "Symmetrizer", max_nu=shape.order, max_l=lmax, indice_dict_allnu=self.terms()
            ),
            "message_passing_list": nn.ModuleList([self.messages() for _ in range(shape.messages)]),
        }
        return make(
            "Cace",
            modules,
            zs=[np.int64(z) for z in elements] if shape.scripted else list(elements),
            cutoff=cutoff,
            max_l=lmax,
            max_nu=shape.order,
            mp_norm_factor=10.0**-0.5,
            num_message_passing=shape.messages,
            device=torch.device("cpu"),
            **({} if shape.old else {"forward_features": ["atomic_charge"]}),
        )

    def exponents(self) -> list[Any]:
        if self.shape.scripted:
            return ["_".join(map(str, triple)) for triple in self.triples]
        return list(self.triples)

    def terms(self) -> dict[int, dict[Any, list[Any]]]:
        if not self.shape.scripted:
            return self.products
        return {
            nu: {str(key): [tuple(term) for term in own] for key, own in found.items()}
            for nu, found in self.products.items()
        }

    def electrostatics(self) -> nn.Module:
        parameters = {**LES, **self.shape.les}
        sigma, dl = parameters["sigma"], parameters["dl"]
        ewald = self.make(
            "Ewald",
            **parameters,
            sigma_sq_half=sigma**2 / 2,
            k_sq_max=(2 * math.pi / dl) ** 2,
            twopi=2 * math.pi,
        )
        bec = self.make("BEC", remove_mean=True, epsilon_factor=1.0, normalization_factor=1.0)
        return self.make(
            "Les",
            {
                "atomwise": self.atomwise("les", output_scaling_factor=0.1),
                "ewald": ewald,
                "bec": bec,
            },
            sigma=sigma,
            dl=dl,
            **({} if self.shape.old else {"use_atomwise": True}),
        )

    def ewald(self) -> nn.Module:
        les = {**LES, **self.shape.les, "norm_factor": 1.0}
        sigma, dl = les["sigma"], les["dl"]
        derived = {"sigma_sq_half": sigma**2 / 2, "k_sq_max": (2 * math.pi / dl) ** 2}
        later = {} if self.shape.old else {"exponent": 1, "charge_neutral_lambda": None}
        names = {"feature_key": "q", "output_key": "ewald_potential", "aggregation_mode": "sum"}
        return self.make("EwaldPotential", **les, **derived, **later, **names)

    def born_charges(self) -> list[nn.Module]:
        if self.shape.polarization is None:
            return []
        names = {"charge_key": "q", "output_key": "polarization", "phase_key": "phase"}
        factor = self.shape.polarization
        settings = {"remove_mean": True, "pbc": True, "normalization_factor": factor}
        return [
            self.make("Polarization", **names, **settings),
            self.make("Grad", y_key="polarization", x_key="positions", output_key="complex"),
            self.make("Dephase", input_key="complex", output_key="bec", phase_key="phase"),
        ]

    def potential(self, representation: nn.Module, outputs: Sequence[nn.Module]) -> nn.Module:
        return self.make(
            "NeuralNetworkPotential",
            {
                "postprocessors": nn.ModuleList(),
                "representation": representation,
                "input_modules": nn.ModuleList([self.make("Preprocess")]),
                "output_modules": nn.ModuleList(outputs),
            },
            do_postprocessing=False,
        )

    def forces(self, energy: str) -> nn.Module:
        return self.make("Forces", energy_key=energy, calc_forces=True)

    def head(self, **attributes: Any) -> nn.Module:
        own = {"aggregation_mode": "sum", "residual": False, "post_process": None}
        return self.atomwise("cace", feature_key="node_feats", **own, **attributes)

    def model(self) -> nn.Module:
        shape, representation = self.shape, self.representation()
        if shape.container == "LesWrapper":
            return self.potential(representation, self.outputs())
        energy = self.head(output_key="SR_energy")
        charge = self.head(outputs=shape.charges, output_key="tot_q", per_atom_output_key="q")
        charge.feature_key = ["node_feats"]
        parts = [charge, self.ewald(), *self.born_charges()]
        if shape.container == "FeatureAdd":
            keys = {"feature_keys": ["SR_energy", "ewald_potential"], "output_key": "CACE_energy"}
            total = [self.make("FeatureAdd", **keys), self.forces("CACE_energy")]
            return self.potential(representation, [energy, *parts, *total])
        if shape.wrapped:
            parts = self.outputs()[:1]
        outputs = {
            "ewald_potential": [*parts, self.forces("ewald_potential")],
            "SR_energy": [energy, self.forces("SR_energy")],
        }
        potentials = [self.potential(representation, found) for found in outputs.values()]
        keys = [{"CACE_energy": name, "CACE_forces": f"{name}_forces"} for name in outputs]
        keys[0]["weight"] = shape.weight
        model = self.make(
            "CombinePotential",
            {"models": nn.ModuleList(potentials)},
            potential_keys=keys,
            out_keys=["CACE_energy", "CACE_forces"],
        )
        model.operation = model.default_operation
        return model

    def outputs(self) -> list[nn.Module]:
        make = self.make
        return [
            make(
                "LesWrapper",
                {"les": self.electrostatics()},
                feature_key="node_feats",
                energy_key="ewald_potential",
                compute_energy=True,
                compute_bec=False,
            ),
            self.head(output_key="SR_energy"),
            make(
                "FeatureAdd",
                feature_keys=["SR_energy", "ewald_potential"],
                output_key="CACE_energy",
            ),
            self.forces("CACE_energy"),
        ]
