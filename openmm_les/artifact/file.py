"""The artifact (``*.les.pt``): a TorchScript archive with metadata and weights.

These are read without running anything from the file. Its script, which plain torch runs as soon as
it reads it, is for other programs; nothing in this package needs it.
"""

import hashlib
import io
import json
import logging
import os
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_les._version import __version__
from openmm_les.errors import ArtifactError, InputError
from openmm_les.files.reading import Damage, Kind, boundary, parse_json, read_file
from openmm_les.files.writing import check_output, user_path, write_atomically
from openmm_les.networks.moments import layout_of
from openmm_les.networks.registry import charge_channels

if TYPE_CHECKING:
    import torch

    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les.electrostatics.multipoles import LatentLayout
    from openmm_les.files.archives import Archive

logger = logging.getLogger(__name__)

#: Increased when the meaning of an artifact's content changes; newer versions are rejected.
FORMAT_VERSION = 1
FORMAT_NAME = "openmm-les"
SUFFIX = ".les.pt"

_METADATA = "metadata.json"
_CANONICAL = "canonical.pt"
_EXPORT_AGAIN = "export it again with 'openmm-les export'"
_KIND = Kind(
    ArtifactError,
    "modelPath",
    "modelPath: {file} is corrupt or not an artifact ({reason}); copy it again, or export it again "
    "with 'openmm-les export'",
)


@dataclass(frozen=True)
class Artifact:
    """A checked artifact file."""

    path: Path  #: absolute
    sha256: str  #: hash of the content, by which saved Systems find it again
    metadata: dict[str, Any]  #: what `inspect` returns

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def unsaved(
        cls, canonical: "CanonicalModel", path: Path, *, dtype: str = "float32", **stated: Any
    ) -> "Artifact":
        """A model that is not in a file yet; `path` is where it will be, `stated` more metadata."""
        artifact = cls(path, "", _describe(canonical, dtype, **stated))
        vars(artifact)["canonical"] = canonical
        return artifact

    @property
    def elements(self) -> list[int]:
        """Atomic numbers the model knows."""
        return [int(z) for z in self.metadata["hyper"]["elements"]]

    @property
    def cutoff(self) -> float:
        """Cutoff radius of the short-range network [A]."""
        return float(self.metadata["hyper"]["cutoff"])

    @property
    def channels(self) -> int:
        """Latent charges of each atom. Energies of several add up; none of them is physical."""
        return charge_channels(self.metadata["hyper"])

    @cached_property
    def layout(self) -> "LatentLayout | None":
        """The rows of its latents, if it has moments beyond charges."""
        return layout_of(self.metadata["hyper"])

    @cached_property
    def canonical(self) -> "CanonicalModel":
        """Hyper-parameters and weights, float64 on the CPU."""
        from openmm_les.artifact.canonical import CanonicalModel
        from openmm_les.files.archives import Archive
        from openmm_les.files.pickles import load as load_pickle

        with boundary(self.path, _KIND):
            extra = Archive(self._content()).read(f"extra/{_CANONICAL}")
            state = load_pickle(Archive(extra))
            if type(state) is not dict:
                raise Damage(f"{_CANONICAL}: expected tensors by name, got {type(state).__name__}")
            canonical = CanonicalModel(
                family=self.metadata["family"],
                hyper=self.metadata["hyper"],
                state=state,
                les=self.metadata["les"],
                source=self.metadata["source"],
                provenance=self.metadata.get("provenance", {}),
            )
            canonical.check()
        return canonical

    @cached_property
    def module(self) -> "torch.jit.ScriptModule":
        """The portable module on the CPU. Nothing else runs the script in the file."""
        import torch

        with boundary(self.path, _KIND):
            stream = io.BytesIO(self._content())
            module: torch.jit.ScriptModule = torch.jit.load(stream, map_location="cpu")  # type: ignore[no-untyped-call]
        return module

    def _content(self) -> bytes:
        """The content of the file, which must still have the hash `sha256`."""
        content = read_file(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ArtifactError(
                f"modelPath: {self.path} has changed since it was opened (expected sha256 "
                f"{self.sha256[:12]}...); open it again"
            )
        return content


def build_module(canonical: "CanonicalModel", dtype: str) -> "torch.jit.ScriptModule":
    """The scripted portable module of a model, with a network in ``"float32"`` or ``"float64"``."""
    from openmm_les.evaluation.engines.torchscript import script
    from openmm_les.evaluation.portable import PortableModel
    from openmm_les.networks import build_network
    from openmm_les.networks.form import Form

    elements = canonical.hyper["elements"]
    form = Form(_dtype(dtype), exact_radial=True, fold=False)
    network = build_network(canonical, range(len(elements)), form)
    model = PortableModel(
        network,
        elements,
        canonical.state["reference_energies"],
        canonical.les,
        layout_of(canonical.hyper),
    )
    return script(model.eval())


def _dtype(name: str) -> "torch.dtype":
    import torch

    dtypes = {"float32": torch.float32, "float64": torch.float64}
    if name not in dtypes:
        raise InputError(f"dtype: expected 'float32' or 'float64', got {name!r}")
    return dtypes[name]


def save(
    canonical: "CanonicalModel",
    path: str | os.PathLike[str],
    *,
    dtype: str = "float32",
    overwrite: bool = False,
    licence: str | None = None,
    citation: str | None = None,
    verification: dict[str, Any] | None = None,
    charge_sign: int | None = None,
    module: "torch.jit.ScriptModule | None" = None,
) -> Path:
    """Writes an artifact, completely or not at all.

    Args:
        canonical: the model.
        path: where to write, usually ``NAME.les.pt``.
        dtype: ``"float32"`` or ``"float64"``, precision of the portable module; the weights for
            `SystemModel` are always float64.
        citation: what to cite.
        verification: result of the exporter's comparison with the original code.
        charge_sign: factor 1 or -1 that makes latent charges physical (oxygen negative), if known.
        module: the portable module, if it has been built already.

    Raises:
        InputError: the model contradicts itself.
        OutputError: the path exists or cannot be written.
    """
    import torch

    output = check_output(path, overwrite, inputs={})
    try:
        canonical.check()
    except Damage as error:
        raise InputError(f"canonical: {error}; nothing was written") from error
    module = build_module(canonical, dtype) if module is None else module
    weights = io.BytesIO()
    torch.save(dict(canonical.state), weights)
    metadata = _describe(
        canonical,
        dtype,
        charge_sign=charge_sign,
        licence=licence,
        citation=citation,
        verification=verification or {"status": "not verified", "reason": "not requested"},
    )
    extra = {_METADATA: json.dumps(metadata, indent=1), _CANONICAL: weights.getvalue()}
    # In memory: on a full disk torch ends the process, and leaves half a file.
    content = io.BytesIO()
    torch.jit.save(module, content, _extra_files=extra)  # type: ignore[no-untyped-call]
    write_atomically(output, content.getvalue(), overwrite=overwrite)
    return output


def _describe(canonical: "CanonicalModel", dtype: str, **stated: Any) -> dict[str, Any]:
    import torch

    return {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "family": canonical.family,
        "elements": list(canonical.hyper["elements"]),
        "cutoff": canonical.hyper["cutoff"],
        "units": {"length": "angstrom", "energy": "eV", "charge": "e"},
        "dtype": dtype,
        "les": dict(canonical.les),
        "provenance": dict(canonical.provenance),
        "charge_sign": None,
        "source": dict(canonical.source),
        **stated,
        "versions": {"openmm-les": __version__, "torch": torch.__version__},
        "hyper": canonical.hyper,
    }


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of an artifact, without torch and without running anything from the file.

    Args:
        path: of the file; `openmm_les.catalog.find` has those of models with a name.

    Raises:
        ArtifactError: the file is missing, corrupt, too new, or not an openmm-les artifact.
    """
    file = user_path(path)
    with boundary(file, _KIND):
        return _metadata(file, _open(file)[1])


def load(path: str | os.PathLike[str]) -> Artifact:
    """Opens an artifact and checks that it is whole.

    Args:
        path: of the file; `openmm_les.catalog.open_model` takes names of models, too.

    Raises:
        ArtifactError: see `inspect`; also a damaged archive.
    """
    file = user_path(path)
    with boundary(file, _KIND):
        content, archive = _open(file)
        metadata = _metadata(file, archive)
        archive.check()
    return Artifact(path=file, sha256=hashlib.sha256(content).hexdigest(), metadata=metadata)


def _open(file: Path) -> "tuple[bytes, Archive]":
    from openmm_les.files.archives import Archive

    if not file.is_file():
        what = "is a directory" if file.is_dir() else "does not exist"
        raise ArtifactError(f"modelPath: {file} {what}; expected an artifact (*{SUFFIX})")
    content = read_file(file)
    return content, Archive(content)


def _metadata(file: Path, archive: "Archive") -> dict[str, Any]:
    from openmm_les.artifact.schema import check_metadata

    if f"extra/{_METADATA}" not in archive:
        if "constants.pkl" in archive:
            raise ArtifactError(
                f"modelPath: {file} is a TorchScript archive but not an openmm-les artifact; "
                "export the original model with 'openmm-les export'"
            )
        raise ArtifactError(
            f"modelPath: {file} is not an artifact; if it is a trained model, convert it with "
            f"'openmm-les export {file.name} -o model{SUFFIX}'"
        )
    metadata = parse_json(archive.read(f"extra/{_METADATA}"))
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT_NAME:
        raise ArtifactError(f"modelPath: {file} was not written by openmm-les; {_EXPORT_AGAIN}")
    version = metadata.get("format_version")
    if type(version) is not int or version < 1:
        raise ArtifactError(f"modelPath: {file} has no valid format version; {_EXPORT_AGAIN}")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"modelPath: {file} has format version {version}, this openmm-les {__version__} "
            f"reads up to {FORMAT_VERSION}; upgrade with 'pip install -U openmm-les'"
        )
    check_metadata(metadata)
    return metadata


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cache_directory() -> Path:
    """The user cache; the environment variable ``OPENMM_LES_CACHE_DIR`` overrides it."""
    override = os.environ.get("OPENMM_LES_CACHE_DIR")
    if override:
        return Path(override)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "openmm-les"


def _cached_path(sha256: str) -> Path:
    return cache_directory() / "artifacts" / f"{sha256}{SUFFIX}"


def store_in_cache(artifact: Artifact) -> None:
    """Keeps a copy for saved Systems, if the cache can be written; a damaged copy is replaced."""
    target = _cached_path(artifact.sha256)
    try:
        if target.is_file() and file_hash(target) == artifact.sha256:
            return
        content = artifact.path.read_bytes()
        if hashlib.sha256(content).hexdigest() == artifact.sha256:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content)
    except OSError as error:
        logger.info("no copy of %s in the cache: %s", artifact.path, error)


def find(path: str | os.PathLike[str], sha256: str) -> Path:
    """The artifact that a saved System refers to.

    Args:
        path: where it was when the System was made.
        sha256: hash of its content.

    Raises:
        ArtifactError: neither file has this hash.
    """
    original, cached = Path(path), _cached_path(sha256)
    for file in (original, cached):
        if file.is_file() and file_hash(file) == sha256:
            return file
    state = "holds another model now" if original.is_file() else "does not exist"
    copy = "a damaged" if cached.is_file() else "no"
    raise ArtifactError(
        f"modelPath: {original} {state}, and there is {copy} copy in the cache ({cached}); put the "
        f"artifact with sha256 {sha256[:12]}... at one of these places"
    )
