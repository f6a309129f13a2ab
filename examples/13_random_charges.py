"""Charges from energies and forces alone: random charges of +1 and -1 e, found exactly.

    python 13_random_charges.py [--structures 1 2 4 8 16] [--output example-output]

Particles at random places repel each other at short distance, and carry +1 or -1 e at random. Their
energies and forces, computed by OpenMM with point charges and PME, are all that a model is told. It
has a charge for each particle, through `openmm_les.learning.LES`, and one pair term for the short
range, the same for all pairs. Charges start near 0, and end at those of the particles or at their
opposite: no energy depends on the common sign.

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
DENSITY = 128 / 27.0**3  # particles per A^3
# LES spreads a charge over a Gaussian. Two of them interact as points do where they do not overlap:
# at DIAMETER, which no pair is closer than, up to 7e-6 of the energy.
SIGMA, DIAMETER = 1.0, 4.5  # A
# LES sums reciprocal vectors up to 2 pi / DL. At the usual 2 A what is left out changes forces by
# 0.003 eV/A, which would limit the charges; here it is 6e-5 eV/A.
DL = 1.5  # A
CUTOFF = 8.0  # A, of the pair term

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--structures", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="to learn from"
)
parser.add_argument("--particles", type=int, default=128)
parser.add_argument("--iterations", type=int, default=200, help="of L-BFGS, at most")
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
        self.pair = torch.nn.Parameter(torch.zeros(8, dtype=torch.float64))
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
        """Smooth functions of the distance, all zero beyond CUTOFF, with learnt coefficients."""
        i, j = torch.triu_indices(*2 * [positions.shape[1]], offset=1)
        away = positions[:, i] - positions[:, j]
        square = (away - self.box * torch.round(away / self.box)).square().sum(dim=2)
        k, pair = torch.nonzero(square < CUTOFF**2, as_tuple=True)
        x = (square[k, pair].sqrt() - DIAMETER) / (CUTOFF - DIAMETER)
        waves = torch.cos(torch.pi * x[:, None] * torch.arange(len(self.pair)))
        of_pairs = (1 - x) ** 3 * (waves @ self.pair)
        return of_pairs.new_zeros(len(positions)).index_add(0, k, of_pairs)


def learn(model: Model, data: Structures, iterations: int) -> int:
    """Fit a model to energies and forces; returns how many times it was evaluated."""
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=iterations,
        history_size=50,
        tolerance_grad=1e-9,
        tolerance_change=1e-13,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def loss() -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        energies, forces = model(data.positions)
        of_energies = (energies - data.energies).square().mean() / len(model.charges)
        total = of_energies + (forces - data.forces).square().mean()
        total.backward()
        return total

    optimizer.step(loss)
    return evaluations


generator = np.random.default_rng(0)
box = (arguments.particles / DENSITY) ** (1 / 3)
true = generator.permutation(np.resize([1.0, -1.0], arguments.particles))
numbers = sorted(arguments.structures)
others = 4  # to test on
places = [place(arguments.particles, box, generator) for _ in range(numbers[-1] + others)]
data = compute(true, box, places)
print(f"{arguments.particles} particles in boxes of {box:.1f} A, forces {data.forces.std():.3f} eV/A")

names = ["structures", "RMS error [e]", "largest [e]", "sum [e]", "forces [eV/A]", "evaluations"]
print("".join(f"{name:>15}" for name in names))
table = []
for number in numbers:
    model = Model(arguments.particles, box, seed=0)
    evaluations = learn(model, data[:number], arguments.iterations)
    learnt = model.charges.detach().numpy()
    learnt = learnt * np.sign(learnt @ true)  # the common sign
    errors = learnt - true
    rms, largest = np.sqrt(np.mean(errors**2)), np.abs(errors).max()
    forces = model(data[-others:].positions)[1].detach()
    of_forces = float((forces - data[-others:].forces).square().mean().sqrt())
    table.append([number, rms, largest, learnt.sum(), of_forces, evaluations])
    print("".join(f"{value:15d}" if isinstance(value, int) else f"{value:15.5f}"
                  for value in table[-1]), flush=True)  # fmt: skip

for name, header, rows in (
    ("random_charges.csv", ["particle", "true [e]", "learnt [e]"],
     zip(range(len(true)), true, learnt, strict=True)),
    ("learning.csv", names, table),
):  # fmt: skip
    with open(arguments.output / name, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    print(f"Wrote {arguments.output / name}.")
print(draw_random_charges(arguments.output))
