"""What every reader ends with: from what it found in a file to a `CanonicalModel`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les_export.checkpoints.records import Record, unsupported
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.les_parameters import MODEL_FILE

State = dict[str, torch.Tensor]


def canonical_form(
    opened: ModelFile,
    *,
    hyper: dict[str, Any],
    state: State,
    les: dict[str, float | bool],
    vintage: str,
    dtype: torch.dtype,
    references: str = MODEL_FILE,
    origins: Mapping[str, str] | None = None,
    charge_sign: int | None = None,
) -> CanonicalModel:
    """A model as exporters hand it over, checked by `CanonicalModel.check`.

    `vintage` is the program that wrote it, for people, and `dtype` that of the weights in the file;
    `references` says where the isolated-atom energies come from, `origins` the same of those LES
    parameters that are not from the file; `charge_sign` is that of the file, if it has one.
    """
    if dtype not in (torch.float32, torch.float64):
        raise unsupported("weights", "float32 or float64", dtype)
    canonical = CanonicalModel(
        family=opened.family.name,
        hyper=hyper,
        # Copies: a view would be written into the artifact with everything it is a view of.
        state={name: t.clone(memory_format=torch.contiguous_format) for name, t in state.items()},
        les=les,
        source={
            "file": opened.file,
            "sha256": opened.sha256,
            "class": opened.kind,
            "vintage": vintage,
            "dtype": str(dtype).removeprefix("torch."),
        },
        provenance={
            **dict.fromkeys(les, MODEL_FILE),
            **(origins or {}),
            "reference_energies": references,
        },
        charge_sign=charge_sign,
    )
    canonical.check()
    return canonical


def integer_order(name: str, order: float, least: int, most: float = math.inf) -> int:
    """A number of a file that must be an integer."""
    if order != int(order) or not least <= order <= most:
        wanted = f"an integer of at least {least}" if most == math.inf else f"{least} to {most}"
        raise unsupported(name, wanted, f"{order:g}")
    return int(order)


def cutoff_order(record: Record) -> int:
    """p of a polynomial cutoff."""
    return integer_order(f"{record.path}.p", record.scalar("p"), 2)


def store_network(
    state: State, prefix: str, maps: Sequence[torch.Tensor], ending: str = ""
) -> None:
    """Puts maps that follow each other into the state, as ``prefix.0``, ``prefix.1``, ..."""
    state.update({f"{prefix}.{k}{ending}": weight for k, weight in enumerate(maps)})
