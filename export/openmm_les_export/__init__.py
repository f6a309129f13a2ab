"""Exporters: trained LES models become artifacts (``*.les.pt``) that `openmm_les` runs.

Importing this package imports no torch; the functions do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_les.errors import InputError

if TYPE_CHECKING:
    import torch

    from openmm_les.networks.canonical import CanonicalModel
    from openmm_les_export.unpickle import PickledModel
    from openmm_les_export.verify import Reference

__all__ = ["export", "read_model"]

logger = logging.getLogger(__name__)


def read_model(
    path: str | os.PathLike[str],
    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None = None,
    head: str | None = None,
) -> CanonicalModel:
    """Reads a trained model without running code from its file.

    Args:
        path: a MACE-LES ``.model`` or CACE-LES ``.pth`` file.
        atomic_energies: isolated-atom energies [eV] by element for a CACE-LES file, which holds
            none: a mapping, ``"1:E,8:E"``, or a JSON or YAML file.
        head: which head of a MACE-LES model that has several.

    Raises:
        ModelFileError: the file is not such a model; says what it is instead.
        UnsupportedModelError: names the option that openmm-les does not implement.
        InputError: atomic energies or head are missing, wrong, or not wanted.
    """
    from openmm_les_export.unpickle import read_pickle

    return _canonical(read_pickle(path), atomic_energies, head)


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
) -> Path:
    """Turns a trained model into an artifact and verifies that it is the same model.

    Args:
        model_path: a MACE-LES ``.model`` or CACE-LES ``.pth`` file.
        output: where to write, usually ``NAME.les.pt``.
        dtype: ``"float32"`` or ``"float64"``, precision of the artifact's portable module; None for
            that of the model.
        overwrite: replace an existing file.
        licence: licence of the weights, stored in the artifact.
        citation: what to cite, stored in the artifact.
        atomic_energies: see `read_model`.
        head: see `read_model`.

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
    from openmm_les_export.unpickle import read_pickle

    destination = artifact.check_output(output, overwrite)
    pickled = read_pickle(model_path)
    canonical = _canonical(pickled, atomic_energies, head)
    precision = str(canonical.source["dtype"]) if dtype is None else dtype
    module = artifact.build_module(canonical, precision)
    return artifact.save(
        canonical,
        destination,
        dtype=precision,
        overwrite=overwrite,
        licence=licence,
        citation=citation,
        verification=_verify(pickled, canonical, module, precision, head),
        charge_sign=charge_sign(module, canonical.hyper["elements"]),
        module=module,
    )


def _canonical(
    pickled: PickledModel,
    atomic_energies: str | os.PathLike[str] | Mapping[Any, Any] | None,
    head: str | None,
) -> CanonicalModel:
    """Hands the model to the reader of its family."""
    from openmm_les_export.atomic_energies import read_atomic_energies
    from openmm_les_export.cace import canonical_cace
    from openmm_les_export.mace import canonical_mace

    if pickled.family.name == "cace":
        if head is not None:
            raise InputError(
                f"head: a {pickled.family.title} file has no heads; leave the option out"
            )
        given = None if atomic_energies is None else read_atomic_energies(atomic_energies)
        return canonical_cace(pickled, given)
    if atomic_energies is not None:
        raise InputError(
            f"atomic energies: a {pickled.family.title} file holds its own; leave the option out"
        )
    return canonical_mace(pickled, head)


def _verify(
    pickled: PickledModel,
    canonical: CanonicalModel,
    module: torch.jit.ScriptModule,
    dtype: str,
    head: str | None = None,
) -> dict[str, Any]:
    """Compares with the original, or with what stands for it, and reports."""
    from openmm_les_export.verify import ORIGINAL, probe_structures, verify_forward

    against, versions = ORIGINAL, {}
    reference: Reference
    if pickled.family.name == "cace":
        from openmm_les_export.cace_reference import EQUATIONS, CACEReference

        energies = canonical.state["reference_energies"].tolist()
        atomic_energies = dict(zip(canonical.hyper["elements"], energies, strict=True))
        against, reference = EQUATIONS, CACEReference(pickled, atomic_energies)
    else:
        try:
            from openmm_les_export.mace_reference import MACEReference, mace_version

            versions["mace-torch"] = mace_version()
            reference = MACEReference(pickled, head)
        except ImportError as error:
            reason = f"mace-torch is not installed here ({error})"
            logger.warning(
                "the export is not verified: %s; pip install 'openmm-les[mace]' and export again",
                reason,
            )
            return {"status": "not verified", "reason": reason}
    probes = probe_structures(canonical.hyper["elements"], canonical.hyper["cutoff"])
    report = verify_forward(module, reference, probes, dtype, against)
    report["versions"] |= versions
    return report
