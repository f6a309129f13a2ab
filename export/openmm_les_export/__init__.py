"""Exporters: trained LES models become artifacts (``*.les.pt``) that `openmm_les` runs.

Importing this package imports no torch; the functions do.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from openmm_les.networks.canonical import CanonicalModel
    from openmm_les_export.unpickle import PickledModel

__all__ = ["export", "read_model"]

logger = logging.getLogger(__name__)


def read_model(path: str | os.PathLike[str]) -> CanonicalModel:
    """Reads a trained model without running code from its file.

    Args:
        path: a MACE-LES ``.model`` file.

    Raises:
        ModelFileError: the file is not such a model; says what it is instead.
        UnsupportedModelError: names the option that openmm-les does not implement.
    """
    from openmm_les_export.unpickle import read_pickle

    return _canonical(read_pickle(path))


def export(
    model_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    licence: str | None = None,
    citation: str | None = None,
) -> Path:
    """Turns a trained model into an artifact and verifies that it is the same model.

    Args:
        model_path: a MACE-LES ``.model`` file.
        output: where to write, usually ``NAME.les.pt``.
        dtype: ``"float32"`` or ``"float64"``, precision of the artifact's portable module; None for
            that of the model.
        overwrite: replace an existing file.
        licence: licence of the weights, stored in the artifact.
        citation: what to cite, stored in the artifact.

    Returns:
        The absolute path of the artifact.

    Raises:
        ModelFileError: see `read_model`.
        ArtifactError: the output exists or cannot be written.
        InputError: unknown dtype.
        VerificationError: the result differs from the original; nothing is written.
    """
    from openmm_les import artifact
    from openmm_les_export.charge_sign import charge_sign
    from openmm_les_export.unpickle import read_pickle

    destination = artifact.check_output(output, overwrite)
    pickled = read_pickle(model_path)
    canonical = _canonical(pickled)
    precision = str(canonical.source["dtype"]) if dtype is None else dtype
    module = artifact.build_module(canonical, precision)
    return artifact.save(
        canonical,
        destination,
        dtype=precision,
        overwrite=overwrite,
        licence=licence,
        citation=citation,
        verification=_verify(pickled, canonical, module, precision),
        charge_sign=charge_sign(module, canonical.hyper["elements"]),
        module=module,
    )


def _canonical(pickled: PickledModel) -> CanonicalModel:
    """Hands the model to the reader of its family."""
    from openmm_les_export.mace import canonical_mace

    readers = {"MACELES": canonical_mace}
    return readers[pickled.root.kind](pickled)


def _verify(
    pickled: PickledModel, canonical: CanonicalModel, module: torch.jit.ScriptModule, dtype: str
) -> dict[str, Any]:
    from openmm_les_export.verify import probe_structures, verify_forward

    try:
        from openmm_les_export.mace_reference import MACEReference, mace_version

        version = mace_version()
        reference = MACEReference(pickled)
    except ImportError as error:
        reason = f"mace-torch is not installed here ({error})"
        logger.warning(
            "the export is not verified: %s; pip install 'openmm-les[mace]' and export again",
            reason,
        )
        return {"status": "not verified", "reason": reason}
    probes = probe_structures(canonical.hyper["elements"], canonical.hyper["cutoff"])
    report = verify_forward(module, reference, probes, dtype)
    report["versions"]["mace-torch"] = version
    return report
