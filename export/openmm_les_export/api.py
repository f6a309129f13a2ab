"""The functions that read and export trained models.

Importing this module imports no torch; the functions do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openmm_les_export.families.dispatch import (
    ORIGINALS,
    STEPS,
    canonical_model,
    reference_model,
)
from openmm_les_export.options import ModelOptions

if TYPE_CHECKING:
    import torch

    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les_export.checkpoints.unpickle import Checkpoint, PickledModel, SavedModel


logger = logging.getLogger(__name__)


def read_model(
    path: str | os.PathLike[str],
    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None = None,
    *,
    head: str | None = None,
    norm_factor: float | None = None,
    self_interaction: Literal["removed", "kept"] | None = None,
    calibrate: str | os.PathLike[str] | None = None,
) -> CanonicalModel:
    """Reads a trained model without running code from its file.

    Args:
        path: a MACE-LES ``.model``, CACE-LES ``.pth`` or NequIP-LES ``.ckpt`` file, or the
            directory of a CHGNet-LES model saved by MatGL.
        atomic_energies: isolated-atom energies [eV] by element for a CACE-LES file, which holds
            none: a mapping, ``"1:E,8:E"``, or a JSON or YAML file.
        head: which head of a MACE-LES model that has several.
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
    from openmm_les.files.writing import user_path
    from openmm_les_export.checkpoints.unpickle import open_model

    options = ModelOptions(atomic_energies, head, norm_factor, self_interaction, calibrate)
    return canonical_model(open_model(user_path(path)), options)


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
    self_interaction: Literal["removed", "kept"] | None = None,
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
        atomic_energies, head, norm_factor, self_interaction, calibrate: see `read_model`.

    Returns:
        The absolute path of the artifact.

    Raises:
        ModelFileError: see `read_model`.
        OutputError: the output exists, cannot be written or is the model file itself.
        InputError: unknown dtype; also see `read_model`.
        VerificationError: the result differs from the original; nothing is written.
    """
    from openmm_les import artifact
    from openmm_les.evaluation.engines.torchscript import compiler
    from openmm_les.files.writing import check_output, user_path
    from openmm_les_export.charge_sign import charge_sign
    from openmm_les_export.checkpoints.unpickle import open_model

    inputs = {"the model": model_path, "--calibrate": calibrate}
    # Path raises for a text that is too long for a name.
    if isinstance(atomic_energies, str | os.PathLike) and os.path.exists(
        user_path(atomic_energies)
    ):
        inputs["--atomic-energies"] = atomic_energies
    destination = check_output(output, overwrite, inputs=inputs)
    opened = open_model(user_path(model_path))
    options = ModelOptions(atomic_energies, head, norm_factor, self_interaction, calibrate)
    canonical = canonical_model(opened, options)
    precision = str(canonical.source["dtype"]) if dtype is None else dtype
    module = artifact.build_module(canonical, precision)
    with compiler:  # the original's code scripts, and torch's default dtype is another meanwhile
        verification = _verify(opened, canonical, module, precision, head)
    return artifact.save(
        canonical,
        destination,
        dtype=precision,
        overwrite=overwrite,
        licence=licence,
        citation=citation,
        verification=verification,
        charge_sign=charge_sign(module, canonical.hyper["elements"]),
        module=module,
    )


def _verify(
    opened: PickledModel | Checkpoint | SavedModel,
    canonical: CanonicalModel,
    module: torch.jit.ScriptModule,
    dtype: str,
    head: str | None = None,
) -> dict[str, Any]:
    """Compares with the original, or with what stands for it, and reports."""
    from openmm_les.files.reading import boundary
    from openmm_les_export.checkpoints.unpickle import CONTENT
    from openmm_les_export.verification.compare import probe_structures, verify_forward

    try:
        with boundary(opened.file, CONTENT):
            reference, against, versions = reference_model(opened, canonical, head)
    except ImportError as error:
        package, extra = ORIGINALS[canonical.family]
        reason = f"{package} is not installed here ({error})"
        logger.warning(
            "the export is not verified: %s; pip install 'openmm-les[%s]' and export again",
            reason,
            extra,
        )
        return {"status": "not verified", "reason": reason}
    hyper = canonical.hyper
    steps = [hyper[name] for name in STEPS.get(canonical.family, ())]
    probes = probe_structures(hyper["elements"], hyper["cutoff"], steps)
    report = verify_forward(module, reference, probes, dtype, against)
    report["versions"] |= versions
    return report
