"""Options of an export, from which ``openmm-les export`` makes its flags. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, TypeAlias

from openmm_les.errors import InputError
from openmm_les.names import Option

FilePath: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class ModelOptions:
    """What model files may not hold; each family takes some of it, see `Family.options`."""

    atomic_energies: Annotated[
        FilePath | Mapping[Any, Any] | None,
        Option(
            "Isolated-atom energies [eV] that the training subtracted, where the file holds none: "
            "such as 1:-13.6,8:-2041.8, or a JSON or YAML file; zero for a model trained without.",
            "Z:E,...|FILE|zero",
        ),
    ] = None
    head: Annotated[
        str | None, Option("Which head of a model that has several; an artifact holds one.", "NAME")
    ] = None
    norm_factor: Annotated[
        float | None,
        Option(
            "Prefactor 1 / (2 epsilon_0) [eV A] of the training, where the file does not hold it: "
            "90.0474 with the les package before April 2026, 90.4756 since.",
            "X",
        ),
    ] = None
    self_interaction: Annotated[
        Literal["removed", "kept"] | None,
        Option(
            "Whether the training removed the self-interaction of charges, where the file does not "
            "say; the les package does so by default since May 2025."
        ),
    ] = None
    calibrate: Annotated[
        FilePath | None,
        Option(
            "Determine the two options before from structures with the energies of the training "
            "(any format of ASE, such as extended XYZ).",
            "FILE",
        ),
    ] = None

    def accept_only(self, accepted: tuple[str, ...], title: str) -> None:
        """Rejects options that the files of a family, by its title, do not need."""
        names = {each.name for each in fields(ModelOptions)} - {*accepted}
        given = {name for name in names if getattr(self, name) is not None}
        if "atomic_energies" in given:
            raise InputError(f"atomic energies: a {title} file holds its own; leave the option out")
        if "head" in given:
            raise InputError(f"head: a {title} file has no heads; leave the option out")
        if given:
            option = min(given).replace("_", "-")
            raise InputError(
                f"{option}: a {title} file holds its own LES parameters; leave the option out"
            )


@dataclass(frozen=True)
class ExportOptions(ModelOptions):
    """All options of an export."""

    dtype: Annotated[
        Literal["float32", "float64"] | None,
        Option("Precision of the portable module in the file; default: that of the model."),
    ] = None
    ignore_n_max: Annotated[
        bool,
        Option(
            "Sum all reciprocal vectors up to the cutoff, although the training left out those "
            "beyond N_max: the same in boxes up to (N_max + 1) dl."
        ),
    ] = False
    overwrite: Annotated[bool, Option("Replace the output file if it exists.")] = False
    licence: Annotated[str | None, Option("Licence of the model, stored in the file.", "TEXT")] = (
        None
    )
    citation: Annotated[
        str | None, Option("What to cite for the model, stored in the file.", "TEXT")
    ] = None
