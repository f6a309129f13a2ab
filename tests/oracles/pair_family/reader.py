"""Reads checkpoints ``{"pair": options, "weights": tensors}`` of ``torch.save``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from openmm_les_export.checkpoints.accepted import Accepted, any_value, check_options
from openmm_les_export.checkpoints.configuration import Options
from openmm_les_export.checkpoints.named_tensors import NamedTensors
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.canonical_form import canonical_form
from openmm_les_export.families.les_choice import LESChoice, les_from_arguments, read_with_choice
from openmm_les_export.options import ModelOptions

from openmm_les.artifact.canonical import CanonicalModel

ACCEPTED = Accepted(
    file="checkpoint of the pair trainer",
    frameworks=("pair_trainer.",),
    recognises=lambda content: isinstance(content.get("pair"), Mapping),
    kind=lambda content: "pair_trainer.Pair",
)


def read(opened: ModelFile, options: ModelOptions) -> CanonicalModel:
    """The canonical form of a Pair-LES model."""
    return read_with_choice(partial(_read, opened), options)


def _read(opened: ModelFile, choice: LESChoice) -> CanonicalModel:
    check_options("pair", opened["pair"], any_value("symbols cutoff les_args"))
    les, origins = les_from_arguments(opened["pair"].get("les_args", {}), choice)
    options = Options(opened["pair"])
    elements = options.elements("symbols")
    weights = NamedTensors(opened["weights"], opened.kind)
    dtype = weights.dtype("energies")
    square = (len(elements), len(elements))
    state = {name: weights.take(name, square) for name in ("energies", "charges")}
    state["reference_energies"] = weights.take("atoms", square[:1])
    weights.check_all_taken()
    return canonical_form(
        opened,
        hyper={"elements": elements, "cutoff": options.positive("cutoff"), "cutoff_order": 3},
        state=state,
        les=les,
        vintage="pair trainer",
        dtype=dtype,
        origins=origins,
    )
