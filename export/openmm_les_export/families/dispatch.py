"""From an opened file to its canonical form, and to what an export of it is compared with.

Importing this module imports no torch; the functions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmm_les.files.reading import boundary
from openmm_les_export.options import ModelOptions

if TYPE_CHECKING:
    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les_export.checkpoints.unpickle import ModelFile
    from openmm_les_export.verification.reference import AutogradReference

_NO_OPTIONS = ModelOptions()


def canonical_model(opened: ModelFile, options: ModelOptions = _NO_OPTIONS) -> CanonicalModel:
    """The canonical form of a model, by the reader of its family.

    Readers check what other trainings may have written; a damaged or forged file may hold anything.
    Errors of Python and torch become a `ModelFileError`, and every error names the file.
    """
    from openmm_les_export.checkpoints.unpickle import CONTENT

    family = opened.family
    options.accept_only(family.options, family.title)
    with boundary(opened.file, CONTENT):
        canonical: CanonicalModel = family.load("reader")(opened, options)
    return canonical


def reference_model(opened: ModelFile, canonical: CanonicalModel) -> AutogradReference:
    """What an export is compared with; its reciprocal sum ends where that of the export does."""
    from openmm_les_export.checkpoints.unpickle import CONTENT

    with boundary(opened.file, CONTENT):
        reference: AutogradReference = opened.family.load("reference")(opened, canonical)
    reference.n_max = canonical.les.get("n_max")
    return reference
