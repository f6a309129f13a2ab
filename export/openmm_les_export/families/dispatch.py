"""Which reader turns a file into its canonical form, and what an export is compared with.

Importing this module imports no torch; the functions do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from openmm_les.files.writing import user_path
from openmm_les_export.options import ModelOptions

if TYPE_CHECKING:
    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les_export.checkpoints.unpickle import Checkpoint, PickledModel, SavedModel
    from openmm_les_export.families.les_choice import LESChoice
    from openmm_les_export.verification.compare import Reference

#: By family: the package with the original code, and the extra that installs it.
ORIGINALS = {
    "mace": ("mace-torch", "mace"),
    "nequip": ("nequip", "nequip"),
    "allegro": ("nequip-allegro", "nequip"),
}

#: By family: cutoffs at which its energy has a step.
STEPS = {"chgnet": ("cutoff", "inner_cutoff")}


def canonical_model(
    opened: PickledModel | Checkpoint | SavedModel, options: ModelOptions
) -> CanonicalModel:
    """Hands the model to the reader of its family."""
    from openmm_les_export.checkpoints.unpickle import Checkpoint, SavedModel

    if isinstance(opened, Checkpoint):
        return _canonical_checkpoint(opened, options)
    if isinstance(opened, SavedModel):
        return _canonical_saved(opened, options)
    title = opened.family.title
    if opened.family.name == "cace":
        from openmm_les_export.atomic_energies import read_atomic_energies
        from openmm_les_export.families.cace.reader import canonical_cace

        options.accept_only(("atomic_energies",), title)
        given = options.atomic_energies
        return canonical_cace(opened, None if given is None else read_atomic_energies(given))
    from openmm_les_export.families.mace.reader import canonical_mace

    options.accept_only(("head",), title)
    return canonical_mace(opened, options.head)


def _canonical_saved(opened: SavedModel, options: ModelOptions) -> CanonicalModel:
    from openmm_les_export.families.chgnet.accepted import PREFACTOR
    from openmm_les_export.families.chgnet.reader import canonical_chgnet
    from openmm_les_export.families.les_choice import PREFACTORS

    options.accept_only(
        (
            "norm_factor",
            "self_interaction",
            "calibrate",
        ),
        "CHGNet-LES",
    )
    prefactors = (None,) if PREFACTOR in opened.arguments else PREFACTORS
    return _with_choice(partial(canonical_chgnet, opened), options, prefactors)


def _canonical_checkpoint(opened: Checkpoint, options: ModelOptions) -> CanonicalModel:
    from openmm_les_export.families.les_choice import PREFACTORS
    from openmm_les_export.families.nequip.accepted import base_model
    from openmm_les_export.families.nequip.allegro import canonical_allegro
    from openmm_les_export.families.nequip.reader import canonical_nequip

    model = opened.hyper.get("model")
    allegro = isinstance(model, Mapping) and base_model(model) == "allegro"
    title = "Allegro-LES" if allegro else "NequIP-LES"
    options.accept_only(
        (
            "norm_factor",
            "self_interaction",
            "calibrate",
        ),
        title,
    )
    read = partial(canonical_allegro if allegro else canonical_nequip, opened)
    return _with_choice(read, options, PREFACTORS)


def _with_choice(
    read: Callable[[LESChoice], CanonicalModel],
    options: ModelOptions,
    prefactors: Sequence[float | None],
) -> CanonicalModel:
    """A model whose file lacks LES parameters, which the user says or has found."""
    from openmm_les_export.families.les_choice import les_choice

    choice = les_choice(options.norm_factor, options.self_interaction)
    if options.calibrate is not None:
        from openmm_les_export.calibration import calibrate

        choice = calibrate(read, user_path(options.calibrate), choice, prefactors)
    return read(choice)


def reference_model(
    opened: PickledModel | Checkpoint | SavedModel, canonical: CanonicalModel, head: str | None
) -> tuple[Reference, str, dict[str, str]]:
    """What to compare with, what it is, and versions of its programs.

    Raises:
        ImportError: the original code is not installed.
    """
    from openmm_les_export.checkpoints.unpickle import Checkpoint, SavedModel
    from openmm_les_export.verification.compare import ORIGINAL

    if isinstance(opened, SavedModel):
        from openmm_les_export.families.chgnet import reference as chgnet_reference

        return (
            chgnet_reference.CHGNetReference(opened, canonical.les),
            chgnet_reference.EQUATIONS,
            {},
        )
    if isinstance(opened, Checkpoint):
        from openmm_les_export.families.nequip.reference import NequIPReference, nequip_versions

        return NequIPReference(opened, canonical.les), ORIGINAL, nequip_versions()
    if canonical.family == "cace":
        from openmm_les_export.families.cace.reference import EQUATIONS, CACEReference

        energies = canonical.state["reference_energies"].tolist()
        atomic_energies = dict(zip(canonical.hyper["elements"], energies, strict=True))
        return CACEReference(opened, atomic_energies), EQUATIONS, {}
    from openmm_les_export.families.mace.reference import MACEReference, mace_version

    return MACEReference(opened, head), ORIGINAL, {"mace-torch": mace_version()}
