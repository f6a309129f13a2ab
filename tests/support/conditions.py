"""MACE models with conditions of every kind, and structures in some."""

import dataclasses
from pathlib import Path

import torch
from openmm_les_export import read_model
from oracles.models import TINY
from support.checkpoints import checkpoint
from support.helpers import dipeptide, water_frame

from openmm_les import artifact as artifacts
from openmm_les.artifact import Artifact

#: Of each level, class and number, with a bias and without, with a default and without.
SPECS = {
    "total_charge": {
        "type": "categorical",
        "per": "graph",
        "num_classes": 7,
        "offset": 3,
        "emb_dim": 3,
    },
    "total_spin": {
        "type": "categorical",
        "per": "graph",
        "num_classes": 4,
        "emb_dim": 2,
        "key": None,
    },
    "elec_temp": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 3},
    "charges": {"type": "continuous", "per": "atom", "in_dim": 1, "emb_dim": 2, "use_bias": False},
    "label": {
        "type": "categorical",
        "per": "atom",
        "num_classes": 3,
        "emb_dim": 2,
        "key": "my_label",
    },
}
#: See `oracles.mace_models.DEFAULTS`.
MODEL = {
    **TINY,
    "elements": [1, 6, 7, 8],
    "max_L": 1,
    "options": {"embedding_specs": SPECS, "use_embedding_readout": True},
}

_PEPTIDE, _WATER = dipeptide(0), water_frame(0)
#: Of each atom of the peptide.
LABELS = [i % 3 for i in range(len(_PEPTIDE))]
#: Structures and their conditions by name.
IN_CONDITIONS = [
    (_PEPTIDE, {"label": 0}),
    (_PEPTIDE, {"label": 0, "total_charge": -3}),
    (_PEPTIDE, {"label": 1, "total_charge": 1, "total_spin": 2}),
    (_PEPTIDE, {"label": 0, "elec_temp": 0.7, "total_spin": 0}),
    (_PEPTIDE, {"label": LABELS, "charges": [0.3 * (i % 2) for i in range(len(_PEPTIDE))]}),
    (_WATER, {"label": 2, "total_charge": 3, "elec_temp": -0.4}),
]


def artifact_of(canonical, file: Path) -> Artifact:
    """A model that was read, without an artifact's file."""
    return Artifact.unsaved(canonical, Path(file))


def model_with_conditions(folder: Path) -> Path:
    """An artifact whose conditions have random weights, made without mace-torch."""
    canonical = read_model(checkpoint("mace_old", folder))
    generator, channels = torch.Generator().manual_seed(1), canonical.hyper["channels"]

    def weights(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    conditions = [
        {"name": "total_charge", "per": "system", "classes": 7, "lowest": -3, "default": 0.0},
        {"name": "total_spin", "per": "system", "classes": 4, "lowest": 0, "default": 1.0},
        {"name": "elec_temp", "per": "system", "default": 0.0, "key": "kT"},
        {"name": "label", "per": "atom", "classes": 3, "lowest": 0, "default": 0.0},
    ]
    tables = {f"conditions.{k}.table": weights(n, channels) for k, n in ((0, 7), (1, 4), (3, 3))}
    network = {
        "conditions.2.0.weight": weights(1, 3),
        "conditions.2.0.bias": weights(3),
        "conditions.2.1.weight": weights(3, channels),
        "conditions.2.1.bias": weights(channels),
    }
    changed = dataclasses.replace(
        canonical,
        hyper={**canonical.hyper, "conditions": conditions},
        state={**canonical.state, **tables, **network},
    )
    return artifacts.save(changed, folder / "conditions.les.pt", charge_sign=1)
