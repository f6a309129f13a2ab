"""Charges from energies and forces alone: random charges of +1 and -1 e, found exactly.

    python 13_random_charges.py [--structures 1 2 4] [--output example-output]

Particles at random places repel each other at short distance, and carry +1 or -1 e at random. Their
energies and forces, computed by OpenMM with point charges and PME, are all that a model is told. It
has a charge for each particle, through `openmm_les.learning.LES`, and one pair term for the short
range, the same for all pairs. Charges start near 0, and end at those of the particles or at their
opposite: no energy depends on the common sign.

Then the same with forces that have random errors, where the error of the charges falls with the
number of structures, and with energies alone: a model can agree with a few of them exactly while
all its charges are wrong.

The test is that of King et al., Nat. Commun. 16, 8763 (2025), with a charge for each particle in
the place of a network that tells two kinds of particles apart.
"""

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openmm
import torch
from openmm import unit
from pictures import draw_random_charges

from openmm_les.learning import LES

EV, EV_PER_A = 96.48533, 964.8533  # in kJ/mol and kJ/mol/nm
DENSITY = 128 / 25.0**3  # particles per A^3
# LES spreads a charge over a Gaussian. Two of them interact as points do where they do not overlap:
# at DIAMETER, which no pair is closer than, up to 3e-5 of the energy and 5e-4 of the force.
SIGMA, DIAMETER = 1.0, 4.2  # A
# LES sums reciprocal vectors up to 2 pi / DL. What the usual 2 A leaves out changes forces by
# 0.003 eV/A (RMS).
DL = 1.6  # A
CUTOFF = 7.5  # A, of the pair term
ERROR = 0.1  # eV/A, of forces with random errors

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--structures", type=int, nargs="+", default=[1, 2, 4], help="to learn from")
parser.add_argument("--particles", type=int, default=64, help="half of them positive")
parser.add_argument("--iterations", type=int, default=300, help="of L-BFGS, at most")
parser.add_argument("--output", type=Path, default=Path("example-output"))
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)


class Structures(NamedTuple):
    """Structures with the same particles."""

    positions: torch.Tensor  #: [structures, particles, 3] [A]
    energies: torch.Tensor  #: [structures] [eV]
    forces: torch.Tensor  #: [structures, particles, 3] [eV/A]

    def __getitem__(self, part: slice) -> "Structures":
        return Structures(*(values[part] for values in tuple(self)))


def place(particles: int, box: float, generator: np.random.Generator) -> np.ndarray:
    """Random places in a periodic box, none nearer to another than DIAMETER [A]."""
    placed = np.empty((0, 3))
    while len(placed) < particles:
        new = generator.uniform(0.0, box, 3)
        away = placed - new
        away -= box * np.round(away / box)
        if (np.square(away).sum(axis=1) > DIAMETER**2).all():
            placed = np.vstack([placed, new])
    return placed


def compute(charges: np.ndarray, box: float, places: list[np.ndarray]) -> Structures:
    """Energies and forces of point charges that repel each other, by OpenMM in double precision."""
    system, force = openmm.System(), openmm.NonbondedForce()
    system.setDefaultPeriodicBoxVectors(*(box * np.eye(3) * unit.angstrom))
    for charge in charges:
        system.addParticle(1.0)
        force.addParticle(charge, DIAMETER * unit.angstrom, 0.1 * EV)
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    force.setCutoffDistance(CUTOFF * unit.angstrom)
    force.setUseSwitchingFunction(True)
    force.setSwitchingDistance(DIAMETER * unit.angstrom)
    force.setUseDispersionCorrection(False)
    force.setEwaldErrorTolerance(1e-6)
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    energies, forces = [], []
    for positions in places:
        context.setPositions(positions * unit.angstrom)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy()._value / EV)
        forces.append(state.getForces(asNumpy=True)._value / EV_PER_A)
    return Structures(*(torch.tensor(np.array(part)) for part in (places, energies, forces)))


class Model(torch.nn.Module):
    """A charge for each particle, and a pair energy that knows nothing of charges."""

    def __init__(self, particles: int, box: float, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = 0.1 * torch.randn(particles, generator=generator, dtype=torch.float64)
        self.charges = torch.nn.Parameter(start)
        self.pair = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.les, self.box = LES(sigma=SIGMA, dl=DL), box

    def forward(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies and forces of structures, as in `Structures`."""
        positions = positions.detach().requires_grad_()
        structures, particles, _ = positions.shape
        batch = torch.arange(structures).repeat_interleave(particles)
        cells = (self.box * torch.eye(3, dtype=torch.float64)).expand(structures, 3, 3)
        charges = self.charges.repeat(structures)
        energies = self.les(charges, positions.flatten(0, 1), batch, cells)
        energies = energies + self.short_range(positions)
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=True)
        return energies, -gradient

    def short_range(self, positions: torch.Tensor) -> torch.Tensor:
        """Inverse powers 6 and 12 of the distance with learnt coefficients, zero beyond CUTOFF."""
        i, j = torch.triu_indices(*2 * [positions.shape[1]], offset=1)
        away = positions[:, i] - positions[:, j]
        square = (away - self.box * torch.round(away / self.box)).square().sum(dim=2)
        structure, pair = torch.nonzero(square < CUTOFF**2, as_tuple=True)
        distance = square[structure, pair].sqrt()
        sixth = (DIAMETER / distance) ** 6
        # OpenMM's switching function, from DIAMETER on.
        x = (distance - DIAMETER) / (CUTOFF - DIAMETER)
        switch = 1 - x**3 * (10 - 15 * x + 6 * x**2)
        of_pairs = switch * (self.pair[0] * sixth + self.pair[1] * sixth**2)
        return of_pairs.new_zeros(len(positions)).index_add(0, structure, of_pairs)


def learn(model: Model, data: Structures, with_forces: bool, iterations: int) -> int:
    """Fit a model to energies, and to forces; returns how many times it was evaluated."""
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=iterations,
        history_size=50,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def loss() -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        energies, forces = model(data.positions)
        total = (energies - data.energies).square().mean() / len(model.charges)
        if with_forces:
            total = total + (forces - data.forces).square().mean()
        total.backward()
        return total

    optimizer.step(loss)
    return evaluations


generator = np.random.default_rng(0)
box = (arguments.particles / DENSITY) ** (1 / 3)
true = generator.permutation(np.resize([1.0, -1.0], arguments.particles))
numbers, others = sorted(arguments.structures), 2  # to learn from, and to test on
places = [place(arguments.particles, box, generator) for _ in range(numbers[-1] + others)]
data = compute(true, box, places)
errors = torch.tensor(generator.normal(scale=ERROR, size=data.forces.shape))
kinds = {
    "exact forces": (data, True),
    f"forces +- {ERROR} eV/A": (data._replace(forces=data.forces + errors), True),
    "energies alone": (data, False),
}
print(f"{arguments.particles} particles, box {box:.1f} A, forces of {data.forces.std():.2f} eV/A")

names = ["RMS error [e]", "largest [e]", "sum [e]", "forces [eV/A]", "evaluations"]
print(f"{'learnt from':22}" + "".join(f"{name:>15}" for name in ["structures", *names]))
table, learnt = [], {}
for kind, (labels, with_forces) in kinds.items():
    for number in numbers:
        model = Model(arguments.particles, box, seed=0)
        evaluations = learn(model, labels[:number], with_forces, arguments.iterations)
        charges = model.charges.detach().numpy()
        charges = learnt[kind] = charges * np.sign(charges @ true)  # the common sign
        deviation = charges - true
        forces = model(data[-others:].positions)[1].detach()
        of_forces = float((forces - data[-others:].forces).square().mean().sqrt())
        rms, largest = np.sqrt(np.mean(deviation**2)), np.abs(deviation).max()
        row = [rms, largest, charges.sum(), of_forces]
        table.append([kind, number, *row, evaluations])
        cells = "".join(f"{value:15.5f}" for value in row)
        print(f"{kind:22}{number:15}{cells}{evaluations:15}", flush=True)

for name, header, rows in (
    ("random_charges.csv", ["true [e]", *learnt], zip(true, *learnt.values(), strict=True)),
    ("learning.csv", ["learnt from", "structures", *names], table),
):
    with open(arguments.output / name, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print(f"Wrote {arguments.output / name}.")
print(draw_random_charges(arguments.output))
