"""Exporters: trained LES models become artifacts (``*.les.pt``) that `openmm_les` runs.

Importing this package imports no torch; the functions do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_les.errors import InputError

if TYPE_CHECKING:
    import torch

    from openmm_les.networks.canonical import CanonicalModel
    from openmm_les_export.les_choice import LESChoice
    from openmm_les_export.unpickle import Checkpoint, PickledModel, SavedModel
    from openmm_les_export.verify import Reference

__all__ = ["export", "read_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Told:
    """What only the user knows of a model; see `read_model`."""

    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None = None
    norm_factor: float | None = None
    self_interaction: str | None = None
    calibrate: str | os.PathLike[str] | None = None


def read_model(
    path: str | os.PathLike[str],
    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None = None,
    *,
    norm_factor: float | None = None,
    self_interaction: str | None = None,
    calibrate: str | os.PathLike[str] | None = None,
) -> CanonicalModel:
    """Reads a trained model without running code from its file.

    Args:
        path: a MACE-LES ``.model``, CACE-LES ``.pth`` or NequIP-LES ``.ckpt`` file, or the
            directory of a CHGNet-LES model saved by MatGL.
        atomic_energies: isolated-atom energies [eV] by element for a CACE-LES file, which holds
            none: a mapping, ``"1:E,8:E"``, or a JSON or YAML file.
        norm_factor: prefactor 1 / (2 epsilon_0) [eV A] of the training, where the file does not
            hold it (NequIP-LES).
        self_interaction: ``"removed"`` or ``"kept"`` in the training, where the file does not say
            (NequIP-LES, CHGNet-LES).
        calibrate: structures with energies of the training, from which to find what the two
            options before do not say.

    Raises:
        ModelFileError: the file is not such a model; says what it is instead.
        UnsupportedModelError: names the option that openmm-les does not implement.
        InputError: what only the user knows is missing, wrong, or not wanted.
    """
    from openmm_les_export.unpickle import open_model

    told = _Told(atomic_energies, norm_factor, self_interaction, calibrate)
    return _canonical(open_model(path), told)


def export(
    model_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    licence: str | None = None,
    citation: str | None = None,
    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None = None,
    norm_factor: float | None = None,
    self_interaction: str | None = None,
    calibrate: str | os.PathLike[str] | None = None,
) -> Path:
    """Turns a trained model into an artifact and verifies that it is the same model.

    Args:
        model_path: see `read_model`.
        output: where to write, usually ``NAME.les.pt``.
        dtype: ``"float32"`` or ``"float64"``, precision of the artifact's portable module; None for
            that of the model.
        overwrite: replace an existing file.
        licence: licence of the weights, stored in the artifact.
        citation: what to cite, stored in the artifact.
        atomic_energies, norm_factor, self_interaction, calibrate: see `read_model`.

    Returns:
        The absolute path of the artifact.

    Raises:
        ModelFileError: see `read_model`.
        ArtifactError: the output exists or cannot be written.
        InputError: unknown dtype; also see `read_model`.
        VerificationError: the result differs from the original; nothing is written.
    """
    from openmm_les import artifact
    from openmm_les_export.charge_sign import charge_sign
    from openmm_les_export.unpickle import open_model

    destination = artifact.check_output(output, overwrite)
    opened = open_model(model_path)
    canonical = _canonical(opened, _Told(atomic_energies, norm_factor, self_interaction, calibrate))
    precision = str(canonical.source["dtype"]) if dtype is None else dtype
    module = artifact.build_module(canonical, precision)
    return artifact.save(
        canonical,
        destination,
        dtype=precision,
        overwrite=overwrite,
        licence=licence,
        citation=citation,
        verification=_verify(opened, canonical, module, precision),
        charge_sign=charge_sign(module, canonical.hyper["elements"]),
        module=module,
    )


def _canonical(opened: PickledModel | Checkpoint | SavedModel, told: _Told) -> CanonicalModel:
    """Hands the model to the reader of its family."""
    from openmm_les_export.unpickle import Checkpoint, SavedModel

    if isinstance(opened, Checkpoint):
        return _canonical_checkpoint(opened, told)
    if isinstance(opened, SavedModel):
        return _canonical_saved(opened, told)
    title = opened.family.title
    for name in ("norm_factor", "self_interaction", "calibrate"):
        if getattr(told, name) is not None:
            option = name.replace("_", "-")
            raise InputError(
                f"{option}: a {title} file holds its own LES parameters; leave the option out"
            )
    if opened.family.name == "cace":
        from openmm_les_export.atomic_energies import read_atomic_energies
        from openmm_les_export.cace import canonical_cace

        given = told.atomic_energies
        return canonical_cace(opened, None if given is None else read_atomic_energies(given))
    from openmm_les_export.mace import canonical_mace

    _refuse_atomic_energies(told, title)
    return canonical_mace(opened)


def _refuse_atomic_energies(told: _Told, title: str) -> None:
    if told.atomic_energies is not None:
        raise InputError(f"atomic energies: a {title} file holds its own; leave the option out")


def _canonical_saved(opened: SavedModel, told: _Told) -> CanonicalModel:
    from openmm_les_export.chgnet import canonical_chgnet
    from openmm_les_export.chgnet_options import PREFACTOR
    from openmm_les_export.les_choice import PREFACTORS

    _refuse_atomic_energies(told, "CHGNet-LES")
    prefactors = (None,) if PREFACTOR in opened.arguments else PREFACTORS
    return _with_choice(partial(canonical_chgnet, opened), told, prefactors)


def _canonical_checkpoint(opened: Checkpoint, told: _Told) -> CanonicalModel:
    from openmm_les_export.allegro import canonical_allegro
    from openmm_les_export.les_choice import PREFACTORS
    from openmm_les_export.nequip import canonical_nequip
    from openmm_les_export.nequip_options import base_model

    model = opened.hyper.get("model")
    allegro = isinstance(model, Mapping) and base_model(model) == "allegro"
    _refuse_atomic_energies(told, "Allegro-LES" if allegro else "NequIP-LES")
    read = partial(canonical_allegro if allegro else canonical_nequip, opened)
    return _with_choice(read, told, PREFACTORS)


def _with_choice(
    read: Callable[[LESChoice], CanonicalModel],
    told: _Told,
    prefactors: Sequence[float | None],
) -> CanonicalModel:
    """A model whose file lacks LES parameters, which the user says or has found."""
    from openmm_les_export.les_choice import les_choice

    choice = les_choice(told.norm_factor, told.self_interaction)
    if told.calibrate is not None:
        from openmm_les_export.calibration import calibrate

        choice = calibrate(read, told.calibrate, choice, prefactors)
    return read(choice)


def _verify(
    opened: PickledModel | Checkpoint | SavedModel,
    canonical: CanonicalModel,
    module: torch.jit.ScriptModule,
    dtype: str,
) -> dict[str, Any]:
    """Compares with the original, or with what stands for it, and reports."""
    from openmm_les_export.verify import probe_structures, verify_forward

    try:
        reference, against, versions = _reference(opened, canonical)
    except ImportError as error:
        package, extra = _ORIGINALS[canonical.family]
        reason = f"{package} is not installed here ({error})"
        logger.warning(
            "the export is not verified: %s; pip install 'openmm-les[%s]' and export again",
            reason,
            extra,
        )
        return {"status": "not verified", "reason": reason}
    hyper = canonical.hyper
    steps = [hyper[name] for name in _STEPS.get(canonical.family, ())]
    probes = probe_structures(hyper["elements"], hyper["cutoff"], steps)
    report = verify_forward(module, reference, probes, dtype, against)
    report["versions"] |= versions
    return report


#: By family: the package with the original code, and the extra that installs it.
_ORIGINALS = {
    "mace": ("mace-torch", "mace"),
    "nequip": ("nequip", "nequip"),
    "allegro": ("nequip-allegro", "nequip"),
}


#: By family: cutoffs at which its energy has a step.
_STEPS = {"chgnet": ("cutoff", "inner_cutoff")}


def _reference(
    opened: PickledModel | Checkpoint | SavedModel, canonical: CanonicalModel
) -> tuple[Reference, str, dict[str, str]]:
    """What to compare with, what it is, and versions of its programs.

    Raises:
        ImportError: the original code is not installed.
    """
    from openmm_les_export.unpickle import Checkpoint, SavedModel
    from openmm_les_export.verify import ORIGINAL

    if isinstance(opened, SavedModel):
        from openmm_les_export import chgnet_reference

        return (
            chgnet_reference.CHGNetReference(opened, canonical.les),
            chgnet_reference.EQUATIONS,
            {},
        )
    if isinstance(opened, Checkpoint):
        from openmm_les_export.nequip_reference import NequIPReference, nequip_versions

        return NequIPReference(opened, canonical.les), ORIGINAL, nequip_versions()
    if canonical.family == "cace":
        from openmm_les_export.cace_reference import EQUATIONS, CACEReference

        energies = canonical.state["reference_energies"].tolist()
        atomic_energies = dict(zip(canonical.hyper["elements"], energies, strict=True))
        return CACEReference(opened, atomic_energies), EQUATIONS, {}
    from openmm_les_export.mace_reference import MACEReference, mace_version

    return MACEReference(opened), ORIGINAL, {"mace-torch": mace_version()}
