"""What every reader ends with: from what it found in a file to a `CanonicalModel`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les.files.reading import boundary
from openmm_les_export.checkpoints.pickled_names import Family
from openmm_les_export.checkpoints.unpickle import CONTENT, Checkpoint, PickledModel, SavedModel
from openmm_les_export.families.les_parameters import MODEL_FILE

State = dict[str, torch.Tensor]

Opened = TypeVar("Opened", PickledModel, Checkpoint, SavedModel)
Told = ParamSpec("Told")
Reader = Callable[Concatenate[Opened, Told], CanonicalModel]

_DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def refuse_contradictions(reader: Reader[Opened, Told]) -> Reader[Opened, Told]:
    """Decorator: what goes wrong with the content of a file is an error about that file.

    Readers check what other trainings may have written; a damaged or forged file may hold anything.
    Errors of Python and torch become a `ModelFileError`, and every error names the file.
    """

    @functools.wraps(reader)
    def read(opened: Opened, /, *args: Told.args, **kwargs: Told.kwargs) -> CanonicalModel:
        with boundary(opened.file, CONTENT):
            return reader(opened, *args, **kwargs)

    return read


def canonical_form(
    opened: PickledModel | Checkpoint | SavedModel,
    family: Family,
    *,
    hyper: dict[str, Any],
    state: State,
    les: dict[str, float | bool],
    vintage: str,
    weights: torch.Tensor,
    references: str = MODEL_FILE,
    origins: Mapping[str, str] | None = None,
) -> CanonicalModel:
    """A model as exporters hand it over.

    Args:
        opened: the file.
        family: which it is of.
        hyper: hyper-parameters.
        state: effective weights, float64.
        les: LES parameters.
        vintage: which program wrote it, for people.
        weights: a tensor of the file that has the precision of the model.
        references: where the isolated-atom energies come from.
        origins: where those LES parameters come from that are not from the file.

    Raises:
        Damage: such a model cannot be, see `CanonicalModel.check`.
        UnsupportedModelError: a precision other than single and double.
    """
    if weights.dtype not in _DTYPES:
        raise UnsupportedModelError(
            f"model: weights: expected float32 or float64, got {weights.dtype}"
        )
    canonical = CanonicalModel(
        family=family.name,
        hyper=hyper,
        # Copies: a view would be written into the artifact with everything it is a view of.
        state={name: t.clone(memory_format=torch.contiguous_format) for name, t in state.items()},
        les=les,
        source={
            "file": opened.file,
            "sha256": opened.sha256,
            "class": opened.kind,
            "vintage": vintage,
            "dtype": _DTYPES[weights.dtype],
        },
        provenance={
            **dict.fromkeys(les, MODEL_FILE),
            **(origins or {}),
            "reference_energies": references,
        },
    )
    canonical.check()
    return canonical


def check_elements(name: str, numbers: Iterable[Any]) -> list[int]:
    """Atomic numbers of a file, in its order.

    Args:
        name: what the file calls them.
        numbers: what it has.

    Raises:
        ModelFileError: they are not different atomic numbers.
    """
    elements = [int(z) for z in numbers]
    if len(set(elements)) != len(elements) or not all(1 <= z <= 118 for z in elements):
        raise ModelFileError(f"model: {name}: expected different elements, got {elements}")
    return elements
