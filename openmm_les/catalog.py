"""Models by name: where they come from, and their exported form.

A small demonstration model comes with the package. The weights of published models do not, because
of their licences: the first use of a name
downloads the file its authors published, checks that it is that very file, and exports it; later
uses, also without a network, take the exported artifact from the cache. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openmm_les import artifact as artifacts
from openmm_les._version import __version__
from openmm_les.errors import ArtifactError, DownloadError, InputError

logger = logging.getLogger(__name__)

#: Precision of the portable module in exported models. In float64 the comparison with the original
#: cannot fail by rounding; simulations choose their own precision from the same weights.
DTYPE = "float64"

_BUNDLED = Path(__file__).parent / "models"

#: A server that is silent for so long [s] is given up.
_SILENCE = 30.0
#: Longest wait for another process [s]: a download and an export take less than a minute.
_PATIENCE = 600.0


@dataclass(frozen=True)
class Entry:
    """A model that has a name.

    Attributes:
        name: what users call it, as in ``MLPotential(name)``.
        aliases: other names of the same model.
        description: one line.
        base_url: where the file lies, without the file's name; empty for a model that comes with
            this package.
        file: name of the file.
        blob: git object id of the file's content, which names one content only; empty likewise.
        licence: of the weights.
        citation: what to cite.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    base_url: str
    file: str
    blob: str
    licence: str
    citation: str

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
)


def names() -> tuple[str, ...]:
    """Every name of a model, aliases included."""
    return tuple(name for model in MODELS for name in (model.name, *model.aliases))


def entry(name: str) -> Entry:
    """What is known of a model.

    Raises:
        InputError: there is no model of this name.
    """
    for model in MODELS:
        if name in (model.name, *model.aliases):
            return model
    raise InputError(f"model: expected one of {', '.join(names())}, got {name!r}{meant(name)}")


def meant(name: str) -> str:
    """For the end of a message: the model that was probably meant, if any."""
    close = difflib.get_close_matches(name.lower(), names(), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def where(name: str) -> Path | None:
    """The exported model; None if it is not in the cache, where this version would put it."""
    model = entry(name)
    path = model.bundled or _exported_path(model)
    try:
        artifacts.inspect(path)
    except ArtifactError:  # absent, or damaged and soon replaced
        return None
    return path


def artifact_path(name: str, *, base_url: str | None = None) -> Path:
    """The exported model; downloads and exports a published one that the cache does not have.

    Any number of processes may ask at once: one works, the others wait for its result.

    Args:
        name: see `names`.
        base_url: a mirror, in place of where the authors published the file; what comes from it has
            to be the same file.

    Returns:
        Path of the artifact, in the cache or in this package.

    Raises:
        InputError: there is no model of this name.
        DownloadError: the file cannot be had, or the cache cannot be written; says what to do.
    """
    model = entry(name)
    if model.bundled is not None:
        return model.bundled
    if (ready := where(name)) is not None:
        return ready
    with _alone(model):
        if (ready := where(name)) is not None:
            return ready
        source = _source(model, base_url or model.base_url)
        return _export(model, source)


def open_model(model: str | os.PathLike[str]) -> artifacts.Artifact:
    """Open a model, downloading a published one if need be.

    Args:
        model: a name (see `names`) or the path of an artifact.

    Raises:
        InputError: neither a known name nor a file.
        ArtifactError, DownloadError: the model cannot be had.
    """
    if model in names():
        return artifacts.load(artifact_path(str(model)))
    path = Path(model).absolute()
    if not path.exists():
        raise InputError(
            f"model: expected a name ({', '.join(names())}) or an exported model "
            f"(*{artifacts.SUFFIX}), got {path}, which does not exist{meant(path.name)}"
        )
    try:
        return artifacts.load(path)
    except ArtifactError as error:
        # The text begins with the name that openmm-ml has for this.
        raise ArtifactError(f"model: {str(error).removeprefix('modelPath: ')}") from error


def git_blob_id(path: Path) -> str:
    """Object id that git gives to a file's content: sha1 of ``blob SIZE``, a zero byte, content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _folder() -> Path:
    return artifacts.cache_directory() / "models"


def _exported_path(model: Entry) -> Path:
    key = f"{model.name}-{model.blob[:12]}-{__version__}-{DTYPE}"
    return (_folder() / f"{key}{artifacts.SUFFIX}").absolute()


@contextlib.contextmanager
def _alone(model: Entry) -> Iterator[None]:
    """Keeps other processes from preparing the same model; a killed process lets go by itself."""
    from filelock import FileLock, Timeout

    lock = _folder() / f".{model.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        guard = FileLock(lock, timeout=_PATIENCE)
        guard.acquire()
    except Timeout:
        raise DownloadError(
            f"{model.name}: another process has been preparing this model for {_PATIENCE:g} s; "
            f"wait for it, or delete {lock} if there is none"
        ) from None
    except OSError as error:
        raise _cache_error(model, error) from error
    try:
        yield
    finally:
        guard.release()


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
    import pooch
    import requests

    logger.info("downloading %s", url)
    # Not streamed: the file fits in memory, and pooch leaves a failed stream's connection open.
    downloader = pooch.HTTPDownloader(chunk_size=1 << 20, timeout=_SILENCE, stream=False)
    try:
        downloader(url, part, None)
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
    """One line for people; the texts of requests name objects and retries."""
    from requests import exceptions

    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    # A timeout in the middle of the content arrives as a ConnectionError.
    if isinstance(error, exceptions.Timeout) or "timed out" in str(error):
        return f"no answer within {_SILENCE:g} s"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the transfer was cut short"
    if isinstance(error, exceptions.ProxyError | exceptions.SSLError):
        return " ".join(str(error).split())
    if isinstance(error, exceptions.ConnectionError):
        return "no connection to the server (offline?)"
    return " ".join(str(error).split()) or type(error).__name__


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
    return export(
        source,
        _exported_path(model),
        dtype=DTYPE,
        overwrite=True,  # only a damaged one can be there
        licence=model.licence,
        citation=model.citation,
    )
