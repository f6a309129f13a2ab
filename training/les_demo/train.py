"""Trains the demonstration model with mace-torch and an LES sum of our own.

    python train.py data.npz les-demo.model --minutes 40

Adam with EMA on forces and energies per atom; the learning rate and the weight of the energy follow
the clock, so that a run always finishes in the time it is given. Writes the model, and a JSON file
with the errors on the tenth of the data that training never sees.
"""

import argparse
import contextlib
import copy
import io
import json
import math
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matscipy.neighbours import neighbour_list

ELEMENTS = [1, 6, 7, 8]
CUTOFF = 4.5
PREFACTOR = 90.4756
SIGMA, DL = 1.0, 2.0


class Ewald(torch.nn.Module):
    """Parameters of the LES sum, under the names that MACE-LES files use."""

    def __init__(self) -> None:
        super().__init__()
        self.sigma, self.dl = SIGMA, DL
        self.sigma_sq_half, self.k_sq_max = SIGMA**2 / 2, (2 * math.pi / DL) ** 2
        self.twopi, self.twopi_sq = 2 * math.pi, (2 * math.pi) ** 2
        self.remove_self_interaction, self.norm_factor = True, PREFACTOR
        self.use_epsilon_r_scaling = False


class BEC(torch.nn.Module):
    """Parameters of Born effective charges, under the names that MACE-LES files use."""

    def __init__(self) -> None:
        super().__init__()
        self.remove_mean, self.epsilon_factor, self.normalization_factor = True, 1.0, 1.0


class _DummyAtomwise(torch.nn.Module):
    """MACE predicts the charges with readouts of its own."""


class Les(torch.nn.Module):
    """LES energy of a batch of structures that are not periodic, differentiable twice.

    Cheng, npj Comput. Mater. 11, 80 (2025); King et al., Nat. Commun. 16, 8763 (2025).
    """

    def __init__(self, les_arguments: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.sigma, self.dl = SIGMA, DL
        self.remove_mean, self.epsilon_factor = True, 1.0
        self.remove_self_interaction = True
        self.use_atomwise = self.use_fixed_atomic_charges = False
        self.use_atomic_alpha = self.use_epsilon_r_scaling = False
        self.fixed_atomic_charges_scaling_factor = 0.5
        self.n_layers, self.n_hidden, self.add_linear_nn = 3, [32, 16], True
        self.output_scaling_factor = 0.1
        self.atomwise, self.ewald, self.bec = _DummyAtomwise(), Ewald(), BEC()

    def forward(
        self, latent_charges: torch.Tensor, positions: torch.Tensor, batch: torch.Tensor, **_: Any
    ) -> dict[str, torch.Tensor | None]:
        q = latent_charges.reshape(-1)
        i, j = torch.nonzero(torch.triu(batch[:, None] == batch[None], 1), as_tuple=True)
        distance = (positions[i] - positions[j]).norm(dim=1)
        kernel = torch.erf(distance / (SIGMA * math.sqrt(2))) / distance
        pairs = PREFACTOR / (2 * math.pi) * q[i] * q[j] * kernel
        energy = torch.zeros(int(batch.max()) + 1, dtype=q.dtype).index_add(0, batch[i], pairs)
        return {"E_lr": energy, "BEC": None}


def register_les() -> None:
    """Gives mace-torch, and the pickle of the model, the names they look for."""
    places = {
        "les": [],
        "les.les": [Les, _DummyAtomwise],
        "les.module": [],
        "les.module.ewald": [Ewald],
        "les.module.bec": [BEC],
    }
    for name, classes in places.items():
        module = types.ModuleType(name)
        for cls in classes:
            cls.__module__ = name
            setattr(module, cls.__name__, cls)
        sys.modules[name] = module
    sys.modules["les"].Les = Les  # type: ignore[attr-defined]


def load(path: Path) -> list[dict[str, Any]]:
    """Structures with their neighbour lists."""
    data = dict(np.load(path))  # each access to the file itself would decompress it again
    ends = np.cumsum(data["sizes"].astype(int))
    out = []
    for energy, end, size, group in zip(
        data["energy"], ends, data["sizes"].astype(int), data["group"], strict=True
    ):
        part = slice(end - size, end)
        r = data["positions"][part].astype(np.float64)
        numbers = data["numbers"][part].astype(int)
        box = np.diag(np.ptp(r, axis=0) + 2 * CUTOFF + 1)
        i, j = neighbour_list(
            "ij", positions=r - r.min(0) + CUTOFF, cell=box, pbc=[False] * 3, cutoff=CUTOFF
        )
        out.append(
            {
                "group": str(group),
                "species": torch.tensor([ELEMENTS.index(z) for z in numbers]),
                "positions": torch.tensor(r, dtype=torch.float32),
                "edges": torch.tensor(np.stack([j, i]).astype(np.int64)),
                "energy": float(energy),
                "forces": torch.tensor(data["forces"][part]),
            }
        )
    return out


def reference_energies(rows: list[dict[str, Any]]) -> np.ndarray:
    """One energy for each element, by least squares over the compositions [eV]."""
    counts = np.array([np.bincount(row["species"], minlength=len(ELEMENTS)) for row in rows])
    energies = np.array([row["energy"] for row in rows])
    return np.asarray(np.linalg.lstsq(counts.astype(float), energies, rcond=None)[0])


def collate(rows: list[dict[str, Any]], references: np.ndarray) -> dict[str, torch.Tensor]:
    """A batch in the form that mace-torch takes; energies without the references."""
    sizes = torch.tensor([len(row["species"]) for row in rows])
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    edges = torch.cat([row["edges"] + ptr[k] for k, row in enumerate(rows)], 1)
    species = torch.cat([row["species"] for row in rows])
    own = [row["energy"] - references[row["species"].numpy()].sum() for row in rows]
    return {
        "positions": torch.cat([row["positions"] for row in rows]),
        "node_attrs": torch.nn.functional.one_hot(species, len(ELEMENTS)).float(),
        "edge_index": edges,
        "shifts": torch.zeros(edges.shape[1], 3),
        "unit_shifts": torch.zeros(edges.shape[1], 3),
        "cell": torch.eye(3).repeat(len(rows), 1) * 100.0,
        "pbc": torch.zeros(len(rows), 3, dtype=torch.bool),
        "batch": torch.repeat_interleave(torch.arange(len(rows)), sizes),
        "ptr": ptr,
        "head": torch.zeros(len(rows), dtype=torch.int64),
        "energy": torch.tensor(own, dtype=torch.float32),
        "forces": torch.cat([row["forces"] for row in rows]),
        "sizes": sizes.float(),
    }


def build(mean_neighbors: float, force_scale: float) -> torch.nn.Module:
    """A MACELES with zero reference energies: float32 would not resolve energies with them."""
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
            hidden_irreps=o3.Irreps("32x0e"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(ELEMENTS)),
            avg_num_neighbors=mean_neighbors,
            atomic_numbers=ELEMENTS,
            correlation=2,
            gate=torch.nn.functional.silu,
            radial_MLP=[32, 32, 32],
            atomic_inter_scale=force_scale,
            atomic_inter_shift=0.0,
        )


def predict(model: torch.nn.Module, batch: dict[str, torch.Tensor], training: bool) -> Any:
    out = model(batch, training=training, compute_force=True)
    return out["energy"], out["forces"]


def errors(model: torch.nn.Module, rows: list[dict[str, Any]], references: np.ndarray) -> dict:
    """Force RMSE [meV/A] and energy RMSE [meV/atom], over all and by group."""
    squares: dict[str, list[tuple[float, int, float, int]]] = {}
    ordered = sorted(rows, key=lambda row: (row["group"], len(row["species"])))
    for start in range(0, len(ordered), 32):
        part = ordered[start : start + 32]
        batch = collate(part, references)
        energy, forces = predict(model, batch, training=False)
        energy_error = ((energy.detach() - batch["energy"]) / batch["sizes"]) ** 2
        force_error = ((forces.detach() - batch["forces"]) ** 2).sum(1)
        for k, row in enumerate(part):
            own = force_error[batch["batch"] == k]
            squares.setdefault(row["group"], []).append(
                (float(own.sum()), 3 * len(own), float(energy_error[k]), 1)
            )

    def summary(entries: list[tuple[float, int, float, int]]) -> dict[str, float]:
        f, nf, e, ne = (sum(column) for column in zip(*entries, strict=True))
        return {
            "structures": ne,
            "force_rmse_mev_per_a": 1e3 * math.sqrt(f / nf),
            "energy_rmse_mev_per_atom": 1e3 * math.sqrt(e / ne),
        }

    everything = [entry for entries in squares.values() for entry in entries]
    return {"all": summary(everything)} | {k: summary(v) for k, v in sorted(squares.items())}


def train(
    model: torch.nn.Module,
    rows: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    references: np.ndarray,
    minutes: float,
    batch_size: int,
) -> torch.nn.Module:
    """Returns the exponential average of the weights at the end."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
    average = copy.deepcopy(model)
    generator = np.random.default_rng(2)
    begin, epoch = time.time(), 0
    while (done := (time.time() - begin) / (60 * minutes)) < 1:
        order = generator.permutation(len(rows))
        for start in range(0, len(order), batch_size):
            done = min(1.0, (time.time() - begin) / (60 * minutes))
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * done)) + 1e-5
            batch = collate([rows[i] for i in order[start : start + batch_size]], references)
            energy, forces = predict(model, batch, training=True)
            force_loss = ((forces - batch["forces"]) ** 2).mean()
            energy_loss = (((energy - batch["energy"]) / batch["sizes"]) ** 2).mean()
            loss = 10 * force_loss + (1000 if done > 0.75 else 20) * energy_loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.002)
            if done >= 1:
                break
        epoch += 1
        if epoch % 5 == 1:
            found = errors(average, held_out[:150], references)["all"]
            print(
                f"epoch {epoch} {(time.time() - begin) / 60:.1f} min: force "
                f"{found['force_rmse_mev_per_a']:.1f} meV/A, energy "
                f"{found['energy_rmse_mev_per_atom']:.2f} meV/atom",
                flush=True,
            )
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    register_les()
    rows = load(arguments.data)
    held_out, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    references = reference_energies(rows)
    neighbors = float(np.mean([row["edges"].shape[1] / len(row["species"]) for row in rows]))
    forces = torch.cat([row["forces"] for row in rows])
    model = build(neighbors, float(forces.square().mean().sqrt()))
    average = train(model, rows, held_out, references, arguments.minutes, arguments.batch_size)
    report = errors(average, held_out, references)
    block = average.atomic_energies_fn
    block.atomic_energies = torch.tensor(references).reshape(block.atomic_energies.shape)
    torch.save(average, arguments.output)
    report = {"training_structures": len(rows), "validation": report}
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["validation"]["all"]))


if __name__ == "__main__":
    main()
