"""A MACE model with conditions of every kind, and structures in some."""

from pathlib import Path

from oracles.models import TINY
from support.helpers import dipeptide, water_frame

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
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 4, "emb_dim": 2},
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
