"""Trains the demonstration model with mace-torch and the LES sum of this package.

    python train.py les-demo.model --minutes 60
    torchrun --nproc-per-node 2 -- train.py les-demo.model --minutes 60    # on two cores

SOAP with an exponential average of the weights, on energies, forces, and net forces on molecules,
with a penalty on net charges; the learning rate and the weights follow the clock, so that a run
always finishes in the time it is given. It trains on energies relative to fitted ones of the
elements; `save` turns these into those of isolated atoms. Writes the model, and a JSON file with
the errors on the tenth of the data that training never sees.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as processes
from dataset import (
    CUTOFF,
    ELEMENTS,
    LIQUID,
    atom_energies,
    batches,
    collate,
    load,
    reference_energies,
    without,
)
from equations import readouts_of
from weights import add_constants, free, spare_feature, take_references, take_weights

from openmm_les.learning import LES, net_charge_penalty, net_charges
from openmm_les.learning.stand_in import register

HERE = Path(__file__).parent
CHANNELS = 48
#: Hidden units of the radial networks, and of the readouts of the last layer.
RADIAL, READOUT = 48, 32
#: Weights in the loss, at first and in the last part of a training: of forces [eV/A], energies
#: [eV/atom], net forces on molecules [eV/A], net charges of structures and of molecules [e], and
#: of what is beyond `LARGE_CHARGE` in those of structures.
#: With large steps, large weights of net charges make all charges smaller.
WEIGHTS = {
    "forces": (10.0, 10.0),
    "energy": (200.0, 1000.0),
    "net_forces": (100.0, 50.0),
    "structure": (5.0, 20.0),
    "molecule": (2.0, 8.0),
    "excess": (20.0, 500.0),
}
#: Errors of distorted structures, which are large, count linearly beyond these [eV/A, eV/atom].
LARGE_FORCE, LARGE_ENERGY = 0.15, 0.005
#: How much these errors count: what makes sense shall be learnt first of all.
OF_DISTORTED = 0.1
#: A net charge that is large [e].
LARGE_CHARGE = 0.008
#: Weight of the difference from initial charges at first [e].
HOLD = 5.0


def build(mean_neighbors: float, force_scale: float) -> torch.nn.Module:
    """A MACELES with zero reference energies: float32 would not resolve energies with them."""
    register()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import mace  # noqa: F401 - before e3nn
        from e3nn import o3
        from mace.modules import blocks, extensions

        torch.manual_seed(1)
        return extensions.MACELES(
            les_arguments={"use_atomwise": False},
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
            interaction_cls_first=blocks.RealAgnosticResidualInteractionBlock,
            num_interactions=2,
            num_elements=len(ELEMENTS),
            hidden_irreps=o3.Irreps(f"{CHANNELS}x0e"),
            MLP_irreps=o3.Irreps(f"{READOUT}x0e"),
            atomic_energies=np.zeros(len(ELEMENTS)),
            avg_num_neighbors=mean_neighbors,
            atomic_numbers=ELEMENTS,
            correlation=2,
            gate=torch.nn.functional.silu,
            radial_MLP=[RADIAL] * 3,
            atomic_inter_scale=force_scale,
            atomic_inter_shift=0.0,
        )


def sums(values: torch.Tensor, molecules: torch.Tensor) -> torch.Tensor:
    """Sums over molecules."""
    zeros = values.new_zeros([int(molecules.max()) + 1, *values.shape[1:]])
    return zeros.index_add(0, molecules, values)


def mean_square(values: torch.Tensor, distorted: torch.Tensor, limit: float) -> torch.Tensor:
    """Of rows that are distorted beyond a limit the straight lines that continue it (Huber)."""
    zeros = torch.zeros_like(values)
    lines = 2 * torch.nn.functional.huber_loss(values, zeros, reduction="none", delta=limit)
    distorted = distorted.view(-1, *[1] * (values.dim() - 1))
    return torch.where(distorted, OF_DISTORTED * lines, values.square()).mean()


def loss_of(
    out: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], weights: dict[str, float]
) -> torch.Tensor:
    """The sum of mean squares with their weights."""
    wrong = out["forces"] - batch["forces"]
    per_atom = (out["energy"] - batch["energy"]) / batch["sizes"]
    charges, distorted = out["latent_charges"], batch["held"] == 0
    structures = distorted[batch["ptr"][:-1]]
    of_molecules = sums(1 - batch["held"], batch["molecules"]) > 0
    surplus = net_charges(charges, batch["batch"]) - batch["charges_of_batch"]
    squares = {
        "forces": mean_square(wrong, distorted, LARGE_FORCE),
        "energy": mean_square(per_atom, structures, LARGE_ENERGY),
        "net_forces": mean_square(sums(wrong, batch["molecules"]), of_molecules, LARGE_FORCE),
        "molecule": net_charge_penalty(charges, batch["molecules"], batch["charges_of_molecules"]),
        "structure": net_charge_penalty(charges, batch["batch"], batch["charges_of_batch"]),
        "excess": (~structures * torch.relu(surplus.abs() - LARGE_CHARGE)).square().mean(),
        "charges": (batch["held"] * (charges - batch["initial_charges"])).square().mean(),
    }
    return torch.stack([weights[name] * square for name, square in squares.items()]).sum()


def evaluate(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], training: bool
) -> dict[str, torch.Tensor]:
    """What mace-torch gives under these names."""
    positions = batch["positions"].detach().requires_grad_()
    sender, receiver = batch["edge_index"]
    energies, charges = readouts_of(
        model,
        batch["node_attrs"],
        positions[receiver] - positions[sender],
        batch["edge_index"],
        batch["opposite"],
        [model.readouts, model.les_readouts],
    )
    energy = LES()(charges, positions, batch["batch"])
    energy = energy.index_add(0, batch["batch"], model.scale_shift.scale * energies)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=training)
    return {"energy": energy, "forces": -gradient, "latent_charges": charges}


def check(model: torch.nn.Module, rows: list[dict[str, Any]]) -> None:
    """Compares `evaluate` with mace-torch."""
    batch = collate(rows[:8], np.zeros(len(ELEMENTS)))
    found = evaluate(model, batch, training=False)
    expected = model(batch, compute_force=True)
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=2e-4, atol=2e-4)


def errors(model: torch.nn.Module, rows: list[dict[str, Any]], references: np.ndarray) -> dict:
    """Errors over all and by group: RMSE of forces and net forces on molecules [meV/A] and energies
    [meV/atom], largest and mean size of the net charge [e].
    """
    found: dict[str, list[list[torch.Tensor]]] = {}
    ordered = sorted(rows, key=lambda row: (row["group"], len(row["species"])))
    for start in range(0, len(ordered), 16):
        part = ordered[start : start + 16]
        batch = collate(part, references)
        out = evaluate(model, batch, training=False)
        charges = out["latent_charges"].detach()
        net = net_charges(charges, batch["batch"])
        wrong = (out["forces"] - batch["forces"]).detach()
        per_atom = ((out["energy"] - batch["energy"]) / batch["sizes"]).detach()
        for k, row in enumerate(part):
            own = batch["batch"] == k
            between = sums(wrong[own], row["molecules"])
            between = between[: len(between) if len(between) > 1 else 0]
            surplus = (net[k] - row["charges"].sum()).abs().reshape(1)
            oxygen = charges[own][row["species"] == ELEMENTS.index(8)]
            values = [wrong[own], between, per_atom[k : k + 1], surplus, oxygen]
            for name in ("all", row["group"]):
                if name == "all" and row["group"] == LIQUID:  # which is no part of older tables
                    continue
                found.setdefault(name, []).append(values)

    def rms(parts: Iterable[torch.Tensor], scale: float) -> float:
        joined = torch.cat([part.flatten() for part in parts])
        return round(scale * float(joined.square().mean().sqrt()), 3) if len(joined) else 0.0

    report = {}
    for group, parts in sorted(found.items()):
        forces, between, energies, net, oxygens = zip(*parts, strict=True)
        report[group] = {
            "structures": len(parts),
            "force_rmse_mev_per_a": rms(forces, 1e3),
            "net_force_rmse_mev_per_a": rms(between, 1e3),
            "energy_rmse_mev_per_atom": rms(energies, 1e3),
            "largest_net_charge_e": round(float(torch.cat(net).max()), 4),
            "mean_net_charge_e": round(float(torch.cat(net).mean()), 4),
            "mean_charge_of_oxygen_e": round(float(torch.cat(oxygens).mean()), 3),
        }
    return report


def charge(
    model: torch.nn.Module, rows: list[dict[str, Any]], references: np.ndarray, steps: int
) -> None:
    """Trains the readouts of charges to give `initial_charges`."""
    parameters = list(model.les_readouts.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    generator = np.random.default_rng(4)
    done = 0
    while done < steps:
        for part in batches(rows, 16, generator)[: steps - done]:
            batch = collate(part, references)
            sender, receiver = batch["edge_index"]
            (found,) = readouts_of(
                model,
                batch["node_attrs"],
                batch["positions"][receiver] - batch["positions"][sender],
                batch["edge_index"],
                batch["opposite"],
                [model.les_readouts],
            )
            loss = (batch["held"] * (found - batch["initial_charges"])).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            done += 1
    print(f"initial charges: {float(loss) ** 0.5:.3f} e off")


def weights_at(done: float, late_from: float) -> dict[str, float]:
    """Of `WEIGHTS`, those after a share of the time."""
    return {name: pair[done >= late_from] for name, pair in WEIGHTS.items()}


def set_learning_rate(optimizer: torch.optim.Optimizer, largest: float, done: float) -> None:
    """Half a cosine over the time of the run."""
    for group in optimizer.param_groups:
        group["lr"] = largest * 0.5 * (1 + math.cos(math.pi * done)) + 1e-5


def update(
    model: torch.nn.Module,
    average: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: torch.Tensor,
    feature: int,
    share: float,
) -> None:
    """One step of the optimizer, of which the average takes a share."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if processes.is_initialized():
        gradient = torch.nn.utils.parameters_to_vector([p.grad for p in model.parameters()])
        processes.all_reduce(gradient)
        gradient /= processes.get_world_size()
        sizes = [p.numel() for p in model.parameters()]
        for p, part in zip(model.parameters(), gradient.split(sizes), strict=True):
            p.grad = part.view_as(p)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()
    free(model, feature)
    with torch.no_grad():
        for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, share)


def train(
    model: torch.nn.Module,
    rows: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    references: np.ndarray,
    atoms: np.ndarray,
    arguments: argparse.Namespace,
) -> torch.nn.Module:
    """Returns the exponential average of the weights at the end."""
    from soap import MatrixSOAP  # needs pytorch-optimizer, without which one can read models

    optimizer = MatrixSOAP(model)
    feature = spare_feature(model)
    free(model, feature)
    average = copy.deepcopy(model)
    generator = np.random.default_rng(2)
    rank, count = (
        (processes.get_rank(), processes.get_world_size()) if processes.is_initialized() else (0, 1)
    )
    begin, epoch, step, done = time.time(), 0, 0, 0.0
    while done < 1:
        parts = batches(rows, arguments.batch_size, generator)
        for part in parts[rank : len(parts) - len(parts) % count : count]:
            clock = torch.tensor([(time.time() - begin) / (60 * arguments.minutes)])
            if count > 1:
                processes.broadcast(clock, 0)
            done = min(1.0, float(clock))
            set_learning_rate(optimizer, arguments.rate * min(1.0, (step + 1) / 100), done)
            batch = collate(part, references)
            out = evaluate(model, batch, training=True)
            held = max(0.0, 1 - done / arguments.hold) if arguments.hold else 0.0
            weights = weights_at(done, arguments.late_from) | {"charges": HOLD * held}
            loss = loss_of(out, batch, weights)
            step += 1
            update(model, average, optimizer, loss, feature, max(0.002, 1 / (1 + step)))
            if done >= 1:
                break
        epoch += 1
        if rank == 0 and epoch % arguments.report_every == 1 % arguments.report_every:
            found = errors(average, held_out[::4], references)
            minutes_now = (time.time() - begin) / 60
            print(f"epoch {epoch}, step {step}, {minutes_now:.1f} min:")
            for name in ("all", LIQUID):
                print(f"  {name}: {found[name]}", flush=True)
            save(average, arguments.output.with_suffix(".latest"), references, atoms, feature)
    return average


def save(
    model: torch.nn.Module,
    path: Path,
    references: np.ndarray,
    atoms: np.ndarray,
    feature: int,
) -> None:
    """Writes a model with the energies of isolated atoms: the rest is part of the network."""
    model = copy.deepcopy(model)
    add_constants(model, feature, references - atoms)
    block = model.atomic_energies_fn
    block.atomic_energies = torch.tensor(atoms).reshape(block.atomic_energies.shape)
    torch.save(model, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, default=HERE / "data.npz")
    parser.add_argument("--ions", type=Path, default=HERE.parent / "les_demo_x" / "data.npz")
    parser.add_argument("--each-ion", type=int, default=1, help="each which of those is taken")
    parser.add_argument("--liquid", type=Path, default=HERE / "liquid.npz")
    parser.add_argument("--distorted", type=Path, default=HERE / "distorted.npz")
    parser.add_argument("--start", type=Path, help="a model to start from, or to widen")
    parser.add_argument("--charge", type=int, default=0, help="steps towards initial charges")
    parser.add_argument(
        "--hold", type=float, default=0.3, help="share of the time until charges are free"
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument(
        "--late-from", type=float, default=0.3, help="share of the time before the last weights"
    )
    parser.add_argument("--rate", type=float, default=0.0015, help="largest learning rate")
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report-every", type=int, default=5, help="epochs")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "RANK" in os.environ:  # of torchrun
        processes.init_process_group("gloo")
    rows = load(arguments.data)
    held_out, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    rows += without(held_out, load(arguments.ions))[:: arguments.each_ion]
    drops = load(arguments.liquid)
    held_out += drops[: len(drops) // 10]
    rows += drops[len(drops) // 10 :]
    # Of structures that make sense; distorted ones are no part of averages.
    references = reference_energies(rows)
    neighbors = float(np.mean([row["edges"].shape[1] / len(row["species"]) for row in rows]))
    forces = torch.cat([row["forces"] for row in rows])
    rows += load(arguments.distorted)
    model = build(neighbors, float(forces.square().mean().sqrt()))
    if arguments.start is not None:
        earlier = torch.load(arguments.start, weights_only=False)
        take_references(earlier, references)
        take_weights(model, earlier)
    if arguments.charge:
        charge(model, rows, references, arguments.charge)
    check(model, rows)
    print(f"{len(rows)} structures, {sum(p.numel() for p in model.parameters())} parameters")
    atoms = atom_energies(arguments.liquid)
    average = train(model, rows, held_out, references, atoms, arguments)
    if processes.is_initialized() and processes.get_rank() > 0:
        return
    save(average, arguments.output, references, atoms, spare_feature(average))
    report = {"training_structures": len(rows), "validation": errors(average, held_out, references)}
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["validation"]["all"]))


if __name__ == "__main__":
    main()
