"""The LES energy for training against the kernels that run models, autograd and differences."""

import pytest
import torch
from oracles import multipoles as oracle
from oracles.ewald import Parameters
from support.charges import CELLS, DOUBLE, REMOVED, SINGLE, structure, tensor
from support.multipoles import KINDS, random_moments, sum_for

from openmm_les.electrostatics.multipoles import SiteMoments
from openmm_les.electrostatics.multipoles.moments import traceless
from openmm_les.errors import InputError
from openmm_les.learning import LES, algebra, pairs, reciprocal

OTHER = Parameters(1.3, 1.7, 90.0474, False)
OPEN = torch.zeros(3, 3, dtype=DOUBLE)
NAMES = ("charges", "dipoles", "quadrupoles", "kappa", "alpha")


def les_of(parameters: Parameters) -> LES:
    values = {k: v for k, v in vars(parameters).items() if k != "periodic_self_terms"}
    return LES(**values)


def place(name, n):
    """Positions and cell, zeros for an open cluster."""
    if name != "open":
        return structure(CELLS[name], n)[1:]
    return 2.0 * torch.randn(n, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(n)), OPEN


def named(moments: SiteMoments) -> dict[str, torch.Tensor]:
    return {k: m for k, m in zip(NAMES, moments, strict=True) if m is not None}


def leaves_of(moments: SiteMoments, *others) -> list[torch.Tensor]:
    return [x.detach().clone().requires_grad_() for x in (*named(moments).values(), *others)]


@pytest.mark.parametrize("parameters", [REMOVED, OTHER])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_is_what_the_kernels_give(kind, parameters):
    """Periodic, triclinic and open structures of any size, their atoms in any order."""
    names, sizes = ("open", "strained", "open", "needle", "triclinic"), (9, 7, 5, 4, 8)
    places = [place(name, n) for name, n in zip(names, sizes, strict=True)]
    parts = [random_moments(kind, n, seed) for seed, n in enumerate(sizes)]
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    joined = {k: torch.cat([named(p)[k] for p in parts])[order] for k in named(parts[0])}
    leaves = [x.requires_grad_() for x in joined.values()]
    r = torch.cat([r for r, _ in places])[order].requires_grad_()
    cells = torch.stack([cell for _, cell in places])
    energies = les_of(parameters)(positions=r, batch=batch[order], cell=cells, **joined)
    slopes = torch.autograd.grad(energies.sum(), [*leaves, r])
    for i, (moments, (own, cell)) in enumerate(zip(parts, places, strict=True)):
        kernel = sum_for(moments, cell if cell.any() else None, parameters)
        want = kernel(moments, own, cell)
        torch.testing.assert_close(energies[i], want.energy, rtol=1e-12, atol=1e-12)
        for name, slope in zip((*joined, "gradient"), slopes, strict=True):
            found = torch.empty_like(slope)
            found[order] = slope
            found = found[batch == i]
            if name == "quadrupoles":
                found = traceless(found)
            expected = getattr(want, name)
            scale = float(expected.abs().max())
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * scale, msg=name)


def plain_energy(parameters, moments, r, cell):
    """The sum as it is written down, for autograd alone."""
    n, given = len(r), named(moments)
    u = given.get("dipoles", r.new_zeros(n, 3)) + 0.0 * given["charges"][:, None]
    q = given["charges"] + 0.0 * u.sum(1)
    sums = oracle.periodic if cell.any() else oracle.open_boundaries
    energy = sums(parameters)(q, u, given.get("quadrupoles", r.new_zeros(n, 3, 3)), r, cell)
    potential, slope = torch.autograd.grad(energy, [q, u], create_graph=True)
    if "kappa" in given:
        energy = energy - 0.5 * (given["kappa"] * potential**2).sum()
    alpha = given.get("alpha", r.new_zeros(n))
    if alpha.dim() == 1:
        return energy - 0.5 * (alpha * (slope**2).sum(1)).sum()
    return energy - 0.5 * torch.einsum("na,nab,nb->", slope, alpha, slope)


@pytest.mark.parametrize("kind", ["q", "qk", "quQka", "quQkA"])
@pytest.mark.parametrize("name", ["strained", "open", "open, in blocks"])
def test_second_derivatives_are_those_of_plain_autograd(name, kind, monkeypatch):
    """Gradients of a loss of energies, forces, stress and derivatives by moments."""
    name, _, in_blocks = name.partition(", ")
    if in_blocks:
        monkeypatch.setattr(pairs, "_PAIRS_PER_BLOCK", 15)
    found = []
    r, cell = place(name, 7)
    weights = torch.Generator().manual_seed(1)
    leaves = leaves_of(random_moments(kind, 7), r, *([cell] if name != "open" else []))
    directions = [torch.randn(x.shape, dtype=DOUBLE, generator=weights) for x in leaves]
    for energy_of in (lambda m, r, c: les_of(OTHER)(positions=r, cell=c, **named(m))[0], None):
        own = dict(zip(named(random_moments(kind, 7)), leaves, strict=False))
        if "quadrupoles" in own:
            tensors = own["quadrupoles"]
            own["quadrupoles"] = traceless(0.5 * (tensors + tensors.transpose(1, 2)))
        moments = SiteMoments(*(own.get(k) for k in NAMES))
        box = leaves[-1] if name != "open" else OPEN
        if energy_of is None:
            energy = plain_energy(OTHER, moments, leaves[len(own)], box)
        else:
            energy = energy_of(moments, leaves[len(own)], box)
        first = torch.autograd.grad(energy, leaves, create_graph=True)
        loss = energy**2 + sum((x * y).sum() for x, y in zip(first, directions, strict=True))
        found.append([*first, *torch.autograd.grad(loss, leaves)])
    for got, want in zip(*found, strict=True):
        scale = max(1.0, float(want.detach().abs().max()))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("kind", ["q", "quQkA"])
@pytest.mark.parametrize("name", ["5 A", "open"])
def test_derivatives_are_those_of_finite_differences(name, kind):
    r, cell = place(name, 3)
    moments, les = random_moments(kind, 3), les_of(OTHER)
    boxes = [cell] if name != "open" else []
    leaves = leaves_of(moments, r, *boxes)

    def energy(*values):
        given = dict(zip(named(moments), values, strict=False))
        rest = values[len(given) :]
        return les(positions=rest[0], cell=rest[1] if boxes else None, **given)

    assert torch.autograd.gradcheck(energy, leaves)
    assert torch.autograd.gradgradcheck(energy, leaves, fast_mode=kind != "q", atol=1e-4)


@pytest.mark.parametrize("kind", ["q", "quQkA"])
@pytest.mark.parametrize("name", ["triclinic", "open"])
def test_single_precision(name, kind):
    r, cell = place(name, 40)
    found = []
    for dtype in (SINGLE, DOUBLE):
        leaves = [x.to(dtype).requires_grad_() for x in leaves_of(random_moments(kind, 40), r)]
        own = dict(zip(named(random_moments(kind, 40)), leaves, strict=False))
        energy = LES()(positions=leaves[-1], cell=cell.to(dtype), **own)
        assert energy.dtype == dtype
        first = torch.autograd.grad(energy.sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
        assert {x.dtype for x in (*first, *second)} == {dtype}
        found.append([energy.detach(), *(x.detach() for x in first), *second])
    for got, want in zip(*found, strict=True):
        assert float((got - want).abs().max()) < 1e-5 * float(want.abs().max())


@pytest.mark.parametrize("name", ["cubic", "open"])
def test_nothing_of_vectors_times_sites_is_kept(name):
    """What autograd keeps for two backward passes is far smaller than one such array."""
    n, sizes = 400, []
    r, _ = place(name, n)
    cell = 30.0 * torch.eye(3, dtype=DOUBLE) if name != "open" else OPEN
    q = torch.randn(n, dtype=DOUBLE, requires_grad=True)
    r = (3.0 * r).requires_grad_()

    def pack(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        energy = LES()(q, r, cell=cell)
        first = torch.autograd.grad(energy.sum(), [q, r], create_graph=True)
        sum(x.square().sum() for x in first).backward()
    vectors = n if name == "open" else 4 * 15**3
    assert max(sizes) < n * vectors / 100 + 10 * (n + vectors)


def test_few_pairs_of_charges_are_what_many_are(monkeypatch):
    """Energies, slopes, and the gradients of a loss of these, of groups of several sizes."""
    sizes = (1, 2, 3, 5, 6, 9)
    r = torch.cat([place("open", n)[0] for n in sizes])
    r[1] = r[2] + 1e-9  # atoms all but at one place
    q = torch.randn(len(r), dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def step():
        leaves = [x.clone().requires_grad_() for x in (q, r)]
        energies = LES(remove_self_interaction=False)(*leaves, batch)
        slopes = torch.autograd.grad(energies.sum(), leaves, create_graph=True)
        loss = energies.square().sum() + sum(x.square().sum() for x in slopes)
        return energies, *slopes, *torch.autograd.grad(loss, leaves)

    few = step()
    monkeypatch.setattr(pairs, "_FEW_PAIRS", -1)
    for found, want in zip(few, step(), strict=True):
        scale = float(want.detach().abs().max())
        torch.testing.assert_close(found, want, rtol=0, atol=1e-12 * scale)


def test_a_training_step():
    """Weights of a network get the gradient of a loss of energies and forces of a mixed batch."""
    torch.manual_seed(0)
    (r1, cell), (r2, _) = place("triclinic", 8), place("open", 6)
    cells, batch = torch.stack([cell, OPEN]), torch.tensor([0] * 8 + [1] * 6)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    ).double()

    def gradients(energies_of):
        r = torch.cat([r1, r2]).requires_grad_()
        energies = energies_of(network(r)[:, 0], r)
        (minus,) = torch.autograd.grad(energies.sum(), r, create_graph=True)
        loss = energies.square().mean() + 10.0 * (minus + 0.1).square().mean()
        return torch.autograd.grad(loss, list(network.parameters()))

    def plain(q, r):
        parts = [(slice(0, 8), cell), (slice(8, 14), OPEN)]
        energies = [plain_energy(REMOVED, SiteMoments(q[i]), r[i], c) for i, c in parts]
        return torch.stack(energies)

    found = gradients(lambda q, r: LES()(q, r, batch, cells.view(-1, 3)))
    for got, want in zip(found, gradients(plain), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_energies_of_several_charges_add_up():
    r, cell = place("strained", 6)
    q = torch.randn(6, 3, dtype=DOUBLE)
    les = LES(n_max=2)
    energy = les(q, r, cell=cell)
    torch.testing.assert_close(energy, sum(les(column, r, cell=cell) for column in q.unbind(1)))
    torch.testing.assert_close(les(q[:, :1], r, cell=cell), les(q[:, 0], r, cell=cell))
    want = sum_for(SiteMoments(q[:, 0]), cell, Parameters(remove_self_interaction=True, n_max=2))
    energy = les(q[:, 0], r, cell=cell)[0]
    torch.testing.assert_close(energy, want(SiteMoments(q[:, 0]), r, cell).energy)


def test_training_after_an_evaluation_in_inference_mode():
    """Tables that the evaluation made serve the training too."""
    tables = algebra.algebra_on, algebra._raised, reciprocal._factors, pairs._columns, pairs._upper
    for table in tables:
        table.cache_clear()
    for name, kinds in (("orthorhombic", "quQ"), ("open", "quQ"), ("open", "q")):
        moments = random_moments(kinds, 4)
        r, cell = place(name, 4)
        with torch.inference_mode():
            expected = LES()(positions=r, cell=cell, **named(moments))
        leaves = leaves_of(moments, r, cell)
        own = dict(zip(named(moments), leaves, strict=False))
        energy = LES()(positions=leaves[-2], cell=leaves[-1], **own)
        leaves = leaves if name != "open" else leaves[:-1]
        first = torch.autograd.grad(energy.sum(), leaves, create_graph=True)
        sum(x.square().sum() for x in first).backward()
        assert torch.equal(energy.detach(), expected)


def test_structures_without_atoms_have_no_energy():
    r, _ = place("open", 4)
    q = tensor([0.1, -0.2, 0.3, 0.4])
    energies = LES()(q, r, torch.tensor([1, 1, 3, 3]), torch.zeros(5, 3, 3, dtype=DOUBLE))
    assert (energies != 0.0).tolist() == [False, True, False, True, False]


def test_wrong_arguments():
    r, q = torch.zeros(4, 3), torch.zeros(4)
    for expected, arguments in {
        r"charges: expected the shape \[4\], got \[5\]": {"charges": torch.zeros(5)},
        "charges: expected float32 or float64": {"charges": q.half()},
        "expected one for each atom beside other moments, got 2": {
            "charges": torch.zeros(4, 2),
            "kappa": q,
        },
        r"positions: expected the shape \[atoms, 3\]": {"positions": r[:, :2]},
        "batch: expected a structure for each of 4 atoms": {"batch": torch.zeros(3).long()},
        "cell: expected one for each of 2 structures, got 1": {
            "batch": torch.tensor([0, 0, 1, 1]),
            "cell": torch.zeros(1, 3, 3),
        },
        r"cell: expected the shape .*, got \[2, 3\]": {"cell": torch.zeros(2, 3)},
        "cell: expected three independent .* for structure 0": {
            "cell": torch.diag(torch.tensor([9.0, 9.0, 0.0]))
        },
        "three independent lattice vectors": {"cell": torch.diag(torch.tensor([9, 9, 1e-30]))},
        "lattice vectors, .* inf": {"cell": torch.diag(torch.tensor([9.0, 9.0, torch.inf]))},
        r"alpha: expected the shape \[4\] or \[4, 3, 3\], got \[4, 3\]": {"alpha": r},
        "charges: expected one or more for each atom, got none": {"charges": torch.zeros(4, 0)},
        "batch: expected integers from 0 on, .* got torch.float32": {"batch": torch.zeros(4)},
        "batch: expected integers from 0 on, .* from -1 on": {"batch": torch.arange(4) - 1},
        "quadrupoles: .* got some that are 3 e A": {"quadrupoles": torch.eye(3).expand(4, 3, 3)},
        "quadrupoles: expected symmetric": {"quadrupoles": torch.eye(3).roll(1, 0).expand(4, 3, 3)},
    }.items():
        with pytest.raises(InputError, match=expected):
            LES()(**({"charges": q, "positions": r} | arguments))
    for expected, constants in {
        "sigma and dl": {"sigma": 0.0},
        "sigma: expected a finite number, got inf": {"sigma": float("inf")},
        "prefactor: expected a number, got '90'": {"prefactor": "90"},
        "n_max: expected an integer of 1 or more, or None, got 0": {"n_max": 0},
        "n_max: .* got 2.5": {"n_max": 2.5},
    }.items():
        with pytest.raises(InputError, match=expected):
            LES(**constants)


@pytest.mark.parametrize("name", ["open", "triclinic"])
@pytest.mark.parametrize("kind", ["q", "quQ"])
def test_autocast_changes_nothing(kind, name):
    """Neither around the energy nor around its derivatives."""
    moments = random_moments(kind, 40)
    r, cell = place(name, 40)

    def step(enabled):
        leaves = [x.detach().float().requires_grad_() for x in (*named(moments).values(), r)]
        own = dict(zip(named(moments), leaves, strict=False))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            energy = LES()(positions=leaves[-1], cell=cell.float(), **own).sum()
            first = torch.autograd.grad(energy, leaves, create_graph=True)
            return energy, *torch.autograd.grad(sum(x.square().sum() for x in first), leaves)

    for found, want in zip(step(True), step(False), strict=True):
        assert torch.equal(found, want)


def test_a_compiled_network_has_the_same_second_derivatives():
    """torch.compile goes around the energy."""
    torch.manual_seed(0)
    (r, cell), network, les = place("triclinic", 8), torch.nn.Linear(3, 1).double(), LES()

    def energy(x):
        return les(network(x)[:, 0], x, cell=cell)

    def gradient(function):
        x = r.clone().requires_grad_()
        (minus,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return torch.autograd.grad(minus.square().sum(), list(network.parameters()))

    compiled = torch.compile(energy, backend="eager")
    for got, want in zip(gradient(compiled), gradient(energy), strict=True):
        torch.testing.assert_close(got, want)
