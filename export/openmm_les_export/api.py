"""The functions that read and export trained models. Importing this module imports no torch."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_les.errors import InputError
from openmm_les_export.families.dispatch import canonical_model, reference_model
from openmm_les_export.options import ExportOptions, ModelOptions

if TYPE_CHECKING:
    import torch

    from openmm_les.artifact import Artifact
    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les_export.checkpoints.unpickle import ModelFile


logger = logging.getLogger(__name__)

#: Where an artifact has it from that there is no n_max.
IGNORED = "--ignore-n-max"


def read_model(path: str | os.PathLike[str], **options: Any) -> CanonicalModel:
    """Reads a trained model without running code from its file.

    Args:
        path: a file or directory as the training code of a family writes it, such as a MACE-LES
            ``.model`` file; docs/reference/formats/ has a page for each family.
        **options: what files of the family may not hold, see `ModelOptions`.

    Raises:
        ModelFileError: the file is not such a model; says what it is instead.
        UnsupportedModelError: names the option that openmm-les does not implement.
        InputError: what only the user knows is missing, wrong, or not wanted.
    """
    from openmm_les.files.writing import user_path
    from openmm_les_export.checkpoints.unpickle import open_model

    return canonical_model(open_model(user_path(path)), ModelOptions(**options))


def export(
    model_path: str | os.PathLike[str], output: str | os.PathLike[str], **options: Any
) -> Path:
    """Turns a trained model into an artifact and verifies that it is the same model.

    What is compared with the original is what runs: the `SystemModel` of simulations in both
    precisions, with the direct Ewald sum and the mesh, and the portable module in the file. The
    artifact's metadata hold the largest error of each.

    Args:
        model_path: see `read_model`.
        output: where to write, usually ``NAME.les.pt``.
        **options: see `ExportOptions`.

    Returns:
        The absolute path of the artifact.

    Raises:
        ModelFileError: see `read_model`.
        OutputError: the output exists, cannot be written or is the model file itself.
        InputError: unknown dtype, an n_max to ignore that is not there; also see `read_model`.
        VerificationError: the result differs from the original; nothing is written.
    """
    from openmm_les import artifact
    from openmm_les.evaluation.engines.torchscript import compiler
    from openmm_les.files.writing import check_output, user_path
    from openmm_les_export.charge_sign import charge_sign
    from openmm_les_export.checkpoints.unpickle import open_model

    given = ExportOptions(**options)
    inputs = {"the model": model_path, "--calibrate": given.calibrate}
    energies = given.atomic_energies
    # Path raises for a text that is too long for a name.
    if isinstance(energies, str | os.PathLike) and os.path.exists(user_path(energies)):
        inputs["--atomic-energies"] = energies
    destination = check_output(output, given.overwrite, inputs=inputs)
    opened = open_model(user_path(model_path))
    canonical = _bounded(canonical_model(opened, given), given.ignore_n_max)
    dtype = str(canonical.source["dtype"]) if given.dtype is None else given.dtype
    module = artifact.build_module(canonical, dtype)
    unsaved = artifact.Artifact.unsaved(canonical, destination, dtype=dtype)
    with compiler:  # the original's code scripts, and torch's default dtype is another meanwhile
        verification = _verify(opened, unsaved, module)
    return artifact.save(
        canonical,
        destination,
        dtype=dtype,
        overwrite=given.overwrite,
        licence=given.licence,
        citation=given.citation,
        verification=verification,
        charge_sign=canonical.charge_sign or charge_sign(unsaved),
        module=module,
    )


def _bounded(canonical: CanonicalModel, ignore_n_max: bool) -> CanonicalModel:
    """The model with the reciprocal vectors of its training, or with all up to the cutoff."""
    n_max = canonical.les.get("n_max")
    if ignore_n_max:
        if n_max is None:
            raise InputError(
                "ignore n_max: expected a model whose reciprocal sum leaves out vectors beyond "
                "N_max, got one without; leave the option out"
            )
        les = {name: value for name, value in canonical.les.items() if name != "n_max"}
        return replace(canonical, les=les, provenance=canonical.provenance | {"n_max": IGNORED})
    if n_max is not None:
        logger.warning(
            "model: the reciprocal sum leaves out vectors with a coordinate above N_max = %d (%s): "
            "it is whole in boxes up to %g A; --ignore-n-max takes all vectors",
            n_max,
            canonical.provenance["n_max"],
            (n_max + 1) * canonical.les["dl"],
        )
    return canonical


def _verify(
    opened: ModelFile, artifact: Artifact, module: torch.jit.ScriptModule
) -> dict[str, Any]:
    import torch

    from openmm_les_export.verification.compare import verify
    from openmm_les_export.verification.probes import probes_for

    canonical = artifact.canonical
    try:
        reference = reference_model(opened, canonical)
    except ImportError as error:
        reason = f"{opened.family.original} is not installed here ({error})"
        logger.warning(
            "the export is not verified: %s; pip install 'openmm-les[%s]' and export again",
            reason,
            opened.family.extra,
        )
        return {"status": "not verified", "reason": reason}
    return {
        "status": "verified",
        "against": reference.against,
        **verify(artifact, module, reference, probes_for(canonical)),
        "versions": {"torch": torch.__version__, **reference.versions},
    }
