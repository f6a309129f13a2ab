"""Exporters: trained LES models become artifacts (``*.les.pt``) that `openmm_les` runs.

Importing this package imports no torch; the functions do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_les.errors import InputError

if TYPE_CHECKING:
    import torch

    from openmm_les.networks.canonical import CanonicalModel
    from openmm_les_export.unpickle import Checkpoint, PickledModel
    from openmm_les_export.verify import Reference

__all__ = ["export", "read_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Told:
    """What only the user knows of a model; see `read_model`."""

    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None = None
    head: str | None = None
    norm_factor: float | None = None
    self_interaction: str | None = None
    calibrate: str | os.PathLike[str] | None = None

    def refuse_all_but(self, *wanted: str, title: str) -> None:
        """Refuse what a file of this family does not need to be told.

        Raises:
            InputError: one of the others is given.
        """
        given = {name for name, value in vars(self).items() if value is not None} - {*wanted}
        if "atomic_energies" in given:
            raise InputError(f"atomic energies: a {title} file holds its own; leave the option out")
        if "head" in given:
            raise InputError(f"head: a {title} file has no heads; leave the option out")
        if given:
            option = min(given).replace("_", "-")
            raise InputError(
                f"{option}: a {title} file holds its own LES parameters; leave the option out"
            )


def read_model(
    path: str | os.PathLike[str],
    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None = None,
    *,
    head: str | None = None,
    norm_factor: float | None = None,
    self_interaction: str | None = None,
    calibrate: str | os.PathLike[str] | None = None,
) -> CanonicalModel:
    """Reads a trained model without running code from its file.

    Args:
        path: a MACE-LES ``.model``, CACE-LES ``.pth`` or NequIP-LES ``.ckpt`` file.
        atomic_energies: isolated-atom energies [eV] by element for a CACE-LES file, which holds
            none: a mapping, ``"1:E,8:E"``, or a JSON or YAML file.
        head: which head of a MACE-LES model that has several.
        norm_factor: prefactor 1 / (2 epsilon_0) [eV A] of the training of a NequIP-LES checkpoint,
            which does not hold it.
        self_interaction: ``"removed"`` or ``"kept"`` in that training.
        calibrate: structures with energies of the training, from which to find what the two
            options before do not say.

    Raises:
        ModelFileError: the file is not such a model; says what it is instead.
        UnsupportedModelError: names the option that openmm-les does not implement.
        InputError: what only the user knows is missing, wrong, or not wanted.
    """
    from openmm_les_export.unpickle import open_model

    told = _Told(atomic_energies, head, norm_factor, self_interaction, calibrate)
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
    head: str | None = None,
    norm_factor: float | None = None,
    self_interaction: str | None = None,
    calibrate: str | os.PathLike[str] | None = None,
) -> Path:
    """Turns a trained model into an artifact and verifies that it is the same model.

    Args:
        model_path: a MACE-LES ``.model``, CACE-LES ``.pth`` or NequIP-LES ``.ckpt`` file.
        output: where to write, usually ``NAME.les.pt``.
        dtype: ``"float32"`` or ``"float64"``, precision of the artifact's portable module; None for
            that of the model.
        overwrite: replace an existing file.
        licence: licence of the weights, stored in the artifact.
        citation: what to cite, stored in the artifact.
        atomic_energies, head, norm_factor, self_interaction, calibrate: see `read_model`.

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
    told = _Told(atomic_energies, head, norm_factor, self_interaction, calibrate)
    canonical = _canonical(opened, told)
    precision = str(canonical.source["dtype"]) if dtype is None else dtype
    module = artifact.build_module(canonical, precision)
    return artifact.save(
        canonical,
        destination,
        dtype=precision,
        overwrite=overwrite,
        licence=licence,
        citation=citation,
        verification=_verify(opened, canonical, module, precision, head),
        charge_sign=charge_sign(module, canonical.hyper["elements"]),
        module=module,
    )


def _canonical(opened: PickledModel | Checkpoint, told: _Told) -> CanonicalModel:
    """Hands the model to the reader of its family."""
    from openmm_les_export.unpickle import Checkpoint

    if isinstance(opened, Checkpoint):
        return _canonical_checkpoint(opened, told)
    title = opened.family.title
    if opened.family.name == "cace":
        from openmm_les_export.atomic_energies import read_atomic_energies
        from openmm_les_export.cace import canonical_cace

        told.refuse_all_but("atomic_energies", title=title)
        given = told.atomic_energies
        return canonical_cace(opened, None if given is None else read_atomic_energies(given))
    from openmm_les_export.mace import canonical_mace

    told.refuse_all_but("head", title=title)
    return canonical_mace(opened, told.head)


def _canonical_checkpoint(opened: Checkpoint, told: _Told) -> CanonicalModel:
    from openmm_les_export.allegro import canonical_allegro
    from openmm_les_export.les_choice import les_choice
    from openmm_les_export.nequip import canonical_nequip
    from openmm_les_export.nequip_options import base_model

    model = opened.hyper.get("model")
    allegro = isinstance(model, Mapping) and base_model(model) == "allegro"
    title = "Allegro-LES" if allegro else "NequIP-LES"
    told.refuse_all_but("norm_factor", "self_interaction", "calibrate", title=title)
    read = partial(canonical_allegro if allegro else canonical_nequip, opened)
    choice = les_choice(told.norm_factor, told.self_interaction)
    if told.calibrate is not None:
        from openmm_les_export.calibration import calibrate

        choice = calibrate(read, told.calibrate, choice)
    return read(choice)


def _verify(
    opened: PickledModel | Checkpoint,
    canonical: CanonicalModel,
    module: torch.jit.ScriptModule,
    dtype: str,
    head: str | None = None,
) -> dict[str, Any]:
    """Compares with the original, or with what stands for it, and reports."""
    from openmm_les_export.verify import probe_structures, verify_forward

    try:
        reference, against, versions = _reference(opened, canonical, head)
    except ImportError as error:
        package, extra = _ORIGINALS[canonical.family]
        reason = f"{package} is not installed here ({error})"
        logger.warning(
            "the export is not verified: %s; pip install 'openmm-les[%s]' and export again",
            reason,
            extra,
        )
        return {"status": "not verified", "reason": reason}
    probes = probe_structures(canonical.hyper["elements"], canonical.hyper["cutoff"])
    report = verify_forward(module, reference, probes, dtype, against)
    report["versions"] |= versions
    return report


#: By family: the package with the original code, and the extra that installs it.
_ORIGINALS = {
    "mace": ("mace-torch", "mace"),
    "nequip": ("nequip", "nequip"),
    "allegro": ("nequip-allegro", "nequip"),
}


def _reference(
    opened: PickledModel | Checkpoint, canonical: CanonicalModel, head: str | None
) -> tuple[Reference, str, dict[str, str]]:
    """What to compare with, what it is, and versions of its programs.

    Raises:
        ImportError: the original code is not installed.
    """
    from openmm_les_export.unpickle import Checkpoint
    from openmm_les_export.verify import ORIGINAL

    if isinstance(opened, Checkpoint):
        from openmm_les_export.nequip_reference import NequIPReference, nequip_versions

        return NequIPReference(opened, canonical.les), ORIGINAL, nequip_versions()
    if canonical.family == "cace":
        from openmm_les_export.cace_reference import EQUATIONS, CACEReference

        energies = canonical.state["reference_energies"].tolist()
        atomic_energies = dict(zip(canonical.hyper["elements"], energies, strict=True))
        return CACEReference(opened, atomic_energies), EQUATIONS, {}
    from openmm_les_export.mace_reference import MACEReference, mace_version

    return MACEReference(opened, head), ORIGINAL, {"mace-torch": mace_version()}
