"""Small CACE-LES files of every shape, written without CACE: its classes by name, without code.

What is in the files follows Cheng, npj Comput. Mater. 10, 157 (2024); the layout is that of the
published ones.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from openmm_les_export.families.cace.accepted import ACCEPTED
from torch import nn

LES = {"sigma": 1.0, "dl": 2.0, "remove_self_interaction": True, "norm_factor": 90.0474}
#: Isolated-atom energies [eV] for the elements of the synthetic models.
ENERGIES = {1: -13.1, 6: -1029.2, 7: -1485.3, 8: -2042.7}
_ROOTS = ("cace.", "les.")
_PACKAGES = ("cace", "les")


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
            classes[full] = type(name, (nn.Module,), {"__module__": module})
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


def synthetic_cace(
    path: Path,
    *,
    elements: Sequence[int] = (1, 8),
    embedding: int = 2,
    bessel: int = 4,
    functions: int = 3,
    lmax: int = 2,
    order: int = 2,
    messages: int = 0,
    hidden: Sequence[int] = (6, 5),
    message_hidden: Sequence[int] = (),
    beside: bool = True,
    cutoff: float = 4.0,
    power: float = 6.0,
    dtype: torch.dtype = torch.float32,
    old: bool = False,
    les: dict[str, Any] | None = None,
    extra: Sequence[str] = (),
    change: Callable[[nn.Module, Callable[..., Any]], None] | None = None,
) -> Path:
    """Writes a file with random weights.

    Args:
        path: where to.
        elements: atomic numbers.
        embedding: length of the embedding of an element.
        bessel: number of radial functions.
        functions: of mixed ones.
        lmax: highest angular degree.
        order: of the highest invariants.
        messages: number of layers after the first.
        hidden: widths of the networks of energy and charges.
        message_hidden: of those of the messages.
        beside: whether a linear map goes beside the networks of energy and charges.
        cutoff: [A].
        power: p of the cutoff function.
        dtype: of the weights.
        old: as written before some options existed.
        les: LES parameters other than `LES`.
        extra: full names of further classes.
        change: changes the model before it is written; is given it and a maker of classes.
    """
    generator = torch.Generator().manual_seed(11)

    def weights(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    triples = monomials(lmax)
    products = invariants(lmax, order)
    channels, degrees = embedding**2, lmax + 1
    width = functions * channels * (1 + sum(map(len, products.values())))
    groups = torch.tensor(
        [
            [sum(sum(t) < d for t in triples), sum(sum(t) <= d for t in triples)]
            for d in range(degrees)
        ]
    )
    options = {} if old else {"use_batchnorm": False}

    with _named_classes(extra) as make:

        def dense(package: str, inputs: int, outputs: int, last: bool) -> nn.Module:
            linear = nn.Linear(inputs, outputs, dtype=dtype)
            linear.weight.data = weights(outputs, inputs, scale=0.3 / inputs**0.5)
            linear.bias.data = weights(outputs, scale=0.1)
            own = options if package == "cace" else {}
            module = make(
                f"{'modules' if package == 'cace' else 'module'}.blocks.Dense",
                {"linear": linear},
                **own,
            )
            if last:
                module.add_module("activation", nn.Identity())
            else:
                module.activation = nn.functional.silu
            return module

        def network(package: str, widths: Sequence[int]) -> nn.Sequential:
            pairs = list(itertools.pairwise(widths))
            return nn.Sequential(
                *(dense(package, a, b, k == len(pairs) - 1) for k, (a, b) in enumerate(pairs))
            )

        def atomwise(package: str, **attributes: Any) -> nn.Module:
            inputs = width * (1 + messages)
            modules = {"outnet": network(package, (inputs, *hidden, 1))}
            if beside:
                modules["linear_nn"] = dense(package, inputs, 1, True)
            name = f"{'modules' if package == 'cace' else 'module'}.atomwise.Atomwise"
            return make(
                name,
                modules,
                add_linear_nn=beside,
                n_in=inputs,
                bias=True,
                n_out=1,
                n_hidden=list(hidden),
                n_layers=len(hidden) + 1,
                activation=nn.functional.silu,
                **attributes,
            )

        def message() -> nn.ModuleList:
            mixing = [[float(sum(t) == d) for t in triples] for d in range(degrees)]
            made = make(
                "MessageBchi",
                {"hnet": network("cace", (width, *message_hidden, degrees * channels))},
                l_matrix=torch.tensor(mixing),
                shared_channels=False,
                shared_l=False,
                residual=False,
                use_batchnorm=False,
                n_in=width,
                nc=channels,
                nl=degrees,
                nlxlylz=torch.tensor(len(triples)),
            )
            return nn.ModuleList([None, None, made])

        index = torch.full((max(elements) + 1,), -1)
        index[torch.tensor(elements)] = torch.arange(len(elements))
        embeddings = {
            f"node_embedding_{name}": make(
                "NodeEmbedding", embedding_weights=weights(len(elements), embedding, scale=0.5)
            )
            for name in ("sender", "receiver")
        }
        frequencies = math.pi / cutoff * torch.arange(1, bessel + 1, dtype=dtype)
        scalar = lambda x: torch.tensor(x, dtype=dtype)  # noqa: E731
        transform = make(
            "SharedRadialLinearTransform",
            {
                "weights": nn.ParameterList(
                    [weights(bessel, functions, channels, scale=0.7) for _ in range(degrees)]
                )
            },
            angular_dim_groups=groups,
            max_l=lmax,
        )
        representation = make(
            "Cace",
            {
                "node_onehot": make("NodeEncoder", index_map=index, num_classes=len(elements)),
                **embeddings,
                "edge_coding": make("EdgeEncoder", directed=True),
                "radial_basis": make(
                    "BesselRBF",
                    bessel_weights=frequencies,
                    cutoff=scalar(cutoff),
                    prefactor=scalar((2 / cutoff) ** 0.5),
                    n_rbf=bessel,
                ),
                "cutoff_fn": make("PolynomialCutoff", p=scalar(power), cutoff=scalar(cutoff)),
                "angular_basis": make(
                    "AngularComponent", l_max=lmax, lxlylz_list=triples, lxlylz_index=groups
                ),
                "radial_transform": transform,
                "symmetrizer": make(
                    "Symmetrizer", max_nu=order, max_l=lmax, indice_dict_allnu=products
                ),
                "message_passing_list": nn.ModuleList([message() for _ in range(messages)]),
            },
            zs=list(elements),
            cutoff=cutoff,
            max_l=lmax,
            max_nu=order,
            mp_norm_factor=10.0**-0.5,
            num_message_passing=messages,
            device=torch.device("cpu"),
        )
        parameters = {**LES, **(les or {})}
        sigma, dl = parameters["sigma"], parameters["dl"]
        electrostatics = make(
            "Les",
            {
                "atomwise": atomwise("les", output_scaling_factor=0.1),
                "ewald": make(
                    "Ewald",
                    **parameters,
                    sigma_sq_half=sigma**2 / 2,
                    k_sq_max=(2 * math.pi / dl) ** 2,
                    twopi=2 * math.pi,
                ),
                "bec": make("BEC", remove_mean=True, epsilon_factor=1.0, normalization_factor=1.0),
            },
            sigma=sigma,
            dl=dl,
            **({} if old else {"use_atomwise": True}),
        )
        model = make(
            "NeuralNetworkPotential",
            {
                "postprocessors": nn.ModuleList(),
                "representation": representation,
                "input_modules": nn.ModuleList([make("Preprocess")]),
                "output_modules": nn.ModuleList(
                    [
                        make(
                            "LesWrapper",
                            {"les": electrostatics},
                            feature_key="node_feats",
                            energy_key="ewald_potential",
                            compute_energy=True,
                            compute_bec=False,
                        ),
                        atomwise(
                            "cace",
                            output_key="SR_energy",
                            feature_key="node_feats",
                            aggregation_mode="sum",
                            residual=False,
                        ),
                        make(
                            "FeatureAdd",
                            feature_keys=["SR_energy", "ewald_potential"],
                            output_key="CACE_energy",
                        ),
                        make("Forces", energy_key="CACE_energy", calc_forces=True),
                    ]
                ),
            },
            do_postprocessing=False,
        )
        if change is not None:
            change(model, make)
        torch.save(model, path)
    return path
