"""Models by name: where they come from, and their exported form.

Licences forbid to ship published weights: the first use downloads, checks and exports their file,
later ones need no network. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openmm_les import artifact as artifacts
from openmm_les._version import __version__
from openmm_les.errors import ArtifactError, DownloadError, InputError, OutputError, one_line
from openmm_les.files.locks import Timeout, exclusive_lock
from openmm_les.files.writing import user_path
from openmm_les.names import did_you_mean

logger = logging.getLogger(__name__)

#: Precision of the portable module in exported models. In float64 the comparison with the original
#: cannot fail by rounding; simulations choose their own precision from the same weights.
DTYPE = "float64"

_BUNDLED = Path(__file__).parent / "models"

#: A download stops when the server sends nothing for this long [s].
READ_TIMEOUT_S = 30.0
#: Longest wait for another process [s]; a download and an export take less than a minute.
LOCK_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Entry:
    """A model that has a name."""

    name: str  #: what users call it, as in ``MLPotential(name)``
    aliases: tuple[str, ...]  #: other names of the same model
    description: str  #: one line
    base_url: str  #: where the file lies; empty for a model that comes with this package
    file: str  #: name of the file
    blob: str  #: git object id, which names one content only; empty if bundled
    licence: str  #: of the weights
    citation: str  #: what to cite
    largest: int = 0  #: size [bytes] at which a download is stopped

    @property
    def bundled(self) -> Path | None:
        """The artifact, for a model that comes with this package."""
        return None if self.base_url else _BUNDLED / self.file

    @property
    def url(self) -> str:
        """Address of the file its authors published."""
        return f"{self.base_url}/{self.file}" if self.base_url else ""


MODELS: tuple[Entry, ...] = (
    Entry(
        name="maceles-off-small",
        aliases=("maceles-off",),
        description="MACELES-OFF, small: organic and biological molecules",
        base_url=(
            "https://raw.githubusercontent.com/ChengUCB/les_fit/"
            "f9937a51f699c506bff91c077f70340e7d1924b2/MACELES-OFF"
        ),
        file="MACELES-OFF_small.model",
        blob="e100b69ba4158c15a87258dc06be9770c236649e",
        licence="CC BY-NC 4.0",
        citation=(
            "Kim et al., J. Chem. Theory Comput. (2025), doi 10.1021/acs.jctc.5c01400; "
            "Cheng, npj Comput. Mater. 11, 80 (2025)"
        ),
        largest=50_000_000,
    ),
    Entry(
        name="les-demo",
        aliases=(),
        description="demonstration only: capped amino acids and water (H, C, N, O), GFN2-xTB level",
        base_url="",
        file=f"les-demo{artifacts.SUFFIX}",
        blob="",
        licence="MIT",
        citation="the openmm-les developers",
    ),
    Entry(
        name="les-demo-x",
        aliases=(),
        description="for polarization='mm': smaller than les-demo; demonstration only",
        base_url="",
        file=f"les-demo-x{artifacts.SUFFIX}",
        blob="",
        licence="MIT",
        citation="the openmm-les developers",
    ),
)


def names() -> tuple[str, ...]:
    """Every name of a model, aliases included."""
    return tuple(name for model in MODELS for name in (model.name, *model.aliases))


def entry(name: str) -> Entry:
    """The entry of a model.

    Raises:
        InputError: there is no model of this name.
    """
    for model in MODELS:
        if name in (model.name, *model.aliases):
            return model
    raise InputError(
        f"model: expected one of {', '.join(names())}, got {name!r}{did_you_mean(name, names())}"
    )


def where(name: str) -> Path | None:
    """Path of the exported model; None if the cache does not have it for this version."""
    try:
        return artifacts.load(_exported_path(entry(name))).path
    except ArtifactError:  # absent, or damaged and soon replaced
        return None


def artifact_path(name: str, *, base_url: str | None = None) -> Path:
    """Path of the exported model; a published one is downloaded and exported if necessary.

    Several processes may call this at once: one works, the others wait for its result.

    Args:
        name: see `names`.
        base_url: a mirror with the same file, in place of the address of the authors.

    Raises:
        InputError: there is no model of this name.
        DownloadError: the file cannot be downloaded, or the cache cannot be written.
        ArtifactError: the file of a bundled model is damaged.
    """
    model = entry(name)
    if (ready := where(name)) is not None:
        return ready
    if model.bundled is not None:
        raise ArtifactError(
            f"{model.name}: {model.bundled}, which comes with openmm-les, is missing or damaged; "
            "install it again with 'pip install --force-reinstall --no-deps openmm-les'"
        )
    with _exclusive(model):
        if (ready := where(name)) is not None:
            return ready
        source = _source(model, base_url or model.base_url)
        return _export(model, source)


def find(model: str | os.PathLike[str]) -> Path:
    """Path of the artifact for a name or a path that the user gives.

    Args:
        model: a name (see `names`), for which a published model is downloaded if necessary, or the
            path of an artifact, which may begin with ``~``.

    Raises:
        ArtifactError: neither a known name nor a file.
        DownloadError: see `artifact_path`.
    """
    given = os.fspath(model)
    if given in names():
        return artifact_path(given)
    path = user_path(given)
    if not os.path.exists(path):  # Path raises for a name that is too long
        raise ArtifactError(
            f"model: {path} does not exist; expected a name ({', '.join(names())}; `openmm-les "
            f"models list` shows them) or an exported model (*{artifacts.SUFFIX})"
            f"{did_you_mean(path.name, names())}"
        )
    return path


def open_model(model: str | os.PathLike[str]) -> artifacts.Artifact:
    """Open the artifact for a name or a path; see `find`.

    Raises:
        ArtifactError: it does not exist or is not valid.
        DownloadError: see `artifact_path`.
    """
    try:
        return artifacts.load(find(model))
    except ArtifactError as error:
        # Errors name the argument of openmm-ml.
        raise ArtifactError(str(error).replace("modelPath: ", "model: ", 1)) from error


def licence_of(weights: str | os.PathLike[str]) -> str | None:
    """The licence of a model file as a training wrote it.

    Known are published files, by their content, and those from which an artifact was exported that
    lies beside them or comes with this package. None for others, and where there is no file.
    """
    file = user_path(weights)
    if not file.is_file():
        return None
    blob = git_blob_id(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    for model in MODELS:
        if model.blob == blob:
            return model.licence
    bundled = [model.bundled for model in MODELS if model.bundled is not None]
    for path in (*bundled, *sorted(file.parent.glob(f"*{artifacts.SUFFIX}"))):
        with contextlib.suppress(ArtifactError):
            metadata = artifacts.load(path).metadata
            if metadata["source"].get("sha256") == sha256 and metadata.get("licence"):
                return str(metadata["licence"])
    return None


def git_blob_id(path: Path) -> str:
    """Object id that git gives to a file's content: sha1 of ``blob SIZE``, a zero byte, content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _folder() -> Path:
    return artifacts.cache_directory() / "models"


def _exported_path(model: Entry) -> Path:
    if model.bundled is not None:
        return model.bundled
    key = f"{model.name}-{model.blob[:12]}-{__version__}-{DTYPE}"
    return (_folder() / f"{key}{artifacts.SUFFIX}").absolute()


@contextlib.contextmanager
def _exclusive(model: Entry) -> Iterator[None]:
    file = _folder() / f".{model.name}.lock"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(file, LOCK_TIMEOUT_S))
        except Timeout:
            raise DownloadError(
                f"{model.name}: another process has been preparing this model for "
                f"{LOCK_TIMEOUT_S:g} s; wait for it, or delete {file} if there is none"
            ) from None
        except OSError as error:
            raise _cache_error(model, error) from error
        yield


def _source(model: Entry, base_url: str) -> Path:
    """The published file in the cache, downloaded if need be."""
    file = _folder() / f"{model.name}-{model.blob[:12]}.model"
    part = file.with_suffix(".part")
    try:
        if file.is_file() and git_blob_id(file) == model.blob:
            return file
        try:
            _download(model, f"{base_url}/{model.file}", part)
            os.replace(part, file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _cache_error(model, error) from error
    return file


def _download(model: Entry, url: str, part: Path) -> None:
    """Writes the file at `url` to `part` and checks its content."""
    import requests

    logger.info("downloading %s", url)
    left = model.largest  # a server may never stop sending
    try:
        with (
            requests.get(url, stream=True, timeout=READ_TIMEOUT_S) as answer,
            part.open("wb") as stream,
        ):
            answer.raise_for_status()
            for block in answer.iter_content(1 << 16):
                left -= len(block)
                if left < 0:
                    raise DownloadError(
                        f"{model.name}: {url} is not the published file: expected less than "
                        f"{model.largest} bytes, got more; try again, or {_by_hand(model)}"
                    )
                stream.write(block)
    except requests.exceptions.RequestException as error:  # an OSError, but none of the cache
        logger.debug("cannot download %s", url, exc_info=True)
        raise DownloadError(
            f"{model.name}: cannot download {url}: {_reason(error)}; {_by_hand(model)}"
        ) from None  # three tracebacks of libraries would hide the reason
    found = git_blob_id(part)
    if found != model.blob:
        raise DownloadError(
            f"{model.name}: what came from {url} is not the published file: expected the git blob "
            f"id {model.blob}, got {found} ({part.stat().st_size} bytes); try again, or "
            f"{_by_hand(model)}"
        )


def _reason(error: Exception) -> str:
    """One line; the messages of requests name internal objects and retries."""
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    # A timeout in the middle of the content arrives as a ConnectionError.
    if isinstance(error, exceptions.Timeout) or "timed out" in str(error):
        return f"no answer within {READ_TIMEOUT_S:g} s"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the transfer was cut short"
    if isinstance(error, exceptions.ProxyError | exceptions.SSLError):
        return one_line(error)
    if isinstance(error, exceptions.ConnectionError):
        return "no connection to the server (offline?)"
    return one_line(error)


def _by_hand(model: Entry) -> str:
    exported = f"{model.name}{artifacts.SUFFIX}"
    return (
        f"to fetch it by hand, get {model.url} on any machine, run `openmm-les export {model.file} "
        f'-o {exported} --licence "{model.licence}"` and use MLPotential({model.name!r}, '
        f"modelPath={exported!r}) or `openmm-les run --model {exported}`"
    )


def _cache_error(model: Entry, error: OSError) -> DownloadError:
    return DownloadError(
        f"{model.name}: cannot write to the cache {_folder()}: {error.strerror or error}; set "
        "OPENMM_LES_CACHE_DIR to a directory that can be written"
    )


def _export(model: Entry, source: Path) -> Path:
    from openmm_les_export import export

    logger.info("exporting %s", source)
    try:
        return export(
            source,
            _exported_path(model),
            dtype=DTYPE,
            overwrite=True,  # only a damaged one can be there
            licence=model.licence,
            citation=model.citation,
        )
    except OutputError as error:
        raise _cache_error(model, error) from error
