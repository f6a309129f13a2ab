"""Trains the polarizable model on energies and forces, from the demonstration model on.

    python fit.py data.npz ../les_demo/data.npz --output les-demo-x.model --minutes 30

With the loss of the demonstration model. The net force on each molecule of a structure with several
tells charges and polarizabilities, since errors within molecules cancel in it. Molecules are
neutral, and ions have their charges. A tenth of each file is held out, and all of ACE-THR-NME.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import network
import numpy as np
import torch
from soap import MatrixSOAP

dataset, demo = network.dataset, network.demo
KEPT_OUT = "ACE-THR-NME"
#: Share of the peptides alone that is trained on; they say nothing of what is between molecules.
SHARE_ALONE = 0.25


def read(paths: list[Path], neutral: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Structures to train on, and those held out: neither these nor their molecules are trained."""
    generator = np.random.default_rng(3)
    train, held_out = [], []
    for path in paths:
        rows = dataset.load(path)
        for k, row in enumerate(rows):
            group = row["group"]
            if neutral and ("ammonium" in group or "formate" in group):
                continue
            alone = int(row["molecules"].max()) == 0
            if k < len(rows) // 10 or group == KEPT_OUT:
                held_out.append(row)
            elif not alone or generator.random() < SHARE_ALONE:
                train.append(row)
    # An ion was put beside molecules that are also there without it: in the same places.
    places = {tuple(row["positions"][0].tolist()) for row in held_out}
    return [row for row in train if tuple(row["positions"][0].tolist()) not in places], held_out


def predict(
    model: network.PolarizableMACE, batch: dict[str, torch.Tensor], training: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Energies [eV], forces [eV/A] and charges [e]."""
    batch["positions"].requires_grad_(True)
    energies, charges = model.energies(batch)
    (gradient,) = torch.autograd.grad(energies.sum(), batch["positions"], create_graph=training)
    return energies, -gradient, charges


def errors(
    model: network.PolarizableMACE, rows: list[dict[str, Any]], references: np.ndarray
) -> dict[str, dict[str, float]]:
    """RMSE of forces and net forces [meV/A], energies [meV/atom] and net charges [1e-3 e], over all
    and by kind.
    """
    found: dict[str, list[list[torch.Tensor]]] = {}
    ordered = sorted(rows, key=lambda row: (kind(row), len(row["species"])))
    for start in range(0, len(ordered), 32):
        part = ordered[start : start + 32]
        batch = dataset.collate(part, references)
        energies, forces, charges = predict(model, batch, training=False)
        wrong = forces - batch["forces"]
        per_atom = (energies.detach() - batch["energy"]) / batch["sizes"]
        for k, row in enumerate(part):
            own = batch["batch"] == k
            several = int(row["molecules"].max()) > 0
            between = demo.sums(wrong[own], row["molecules"])[: None if several else 0]
            surplus = (charges[own].sum() - row["charges"].sum()).detach().reshape(1)
            for name in ("all", kind(row)):
                values = [wrong[own], between, per_atom[k : k + 1], surplus]
                found.setdefault(name, []).append(values)
    names = (
        "force_rmse_mev_per_a",
        "net_force_rmse_mev_per_a",
        "energy_rmse_mev_per_atom",
        "net_charge_rmse_me",
    )
    report = {}
    for group, parts in sorted(found.items()):
        report[group] = {"structures": float(len(parts))}
        for name, column in zip(names, zip(*parts, strict=True), strict=True):
            joined = torch.cat([x.flatten() for x in column])
            if len(joined):
                report[group][name] = round(1e3 * float(joined.square().mean().sqrt()), 3)
    return report


def kind(row: dict[str, Any]) -> str:
    """What a structure consists of."""
    group = row["group"]
    if group == KEPT_OUT:
        return "ACE-THR-NME, never trained on"
    body = "peptide" if "ACE" in group else "water"
    body += " and water" if "ACE" in group and "waters" in group else ""
    ion = next((name for name in ("ammonium", "formate") if name in group), None)
    return f"{body} and {ion}" if ion else body


def train(
    model: network.PolarizableMACE,
    rows: list[dict[str, Any]],
    references: np.ndarray,
    arguments: argparse.Namespace,
) -> network.PolarizableMACE:
    """Returns the exponential average of the weights at the end."""
    optimizer = MatrixSOAP(model)
    feature = demo.spare_feature(model)
    demo.free(model, feature)
    average = copy.deepcopy(model)
    generator = np.random.default_rng(2)
    begin, step, done = time.time(), 0, 0.0
    while done < 1:
        for part in dataset.batches(rows, arguments.batch_size, generator):
            done = min(1.0, (time.time() - begin) / (60 * arguments.minutes))
            demo.set_learning_rate(optimizer, arguments.rate, done)
            batch = dataset.collate(part, references)
            energies, forces, charges = predict(model, batch, training=True)
            out = {"energy": energies, "forces": forces, "latent_charges": charges}
            weights = demo.weights_at(done, arguments.late_from) | {"charges": 0.0}
            loss = demo.loss_of(out, batch, weights)
            step += 1
            share = max(0.005, 1 / (1 + step))
            demo.update(model, average, optimizer, loss, feature, share)
            if step % 100 == 0:
                minutes_now = (time.time() - begin) / 60
                print(f"step {step}, {minutes_now:.1f} min: loss {float(loss):.4f}", flush=True)
            if done >= 1:
                break
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, default=Path(demo.__file__).with_name("les-demo.model")
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=0.0015, help="largest learning rate")
    parser.add_argument(
        "--late-from", type=float, default=0.5, help="share of the time before the last weights"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--validate-every", type=int, default=1, help="of the structures held out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--neutral", action="store_true", help="leave the ions out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, held_out = read(arguments.data, arguments.neutral)
    references = dataset.reference_energies(rows)
    model = network.start(arguments.start, references)
    print(f"{len(rows)} structures, {sum(p.numel() for p in model.parameters())} parameters")
    average = train(model, rows, references, arguments)
    network.save(average, arguments.output, references)
    report = errors(average, held_out[:: arguments.validate_every], references)
    report = {"training_structures": len(rows), "validation": report}
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
