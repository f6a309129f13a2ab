"""Writes files completely or not at all, and never over an input."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from openmm_les.errors import OutputError


def user_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path, with a leading ``~`` expanded."""
    return Path(os.path.expanduser(path)).absolute()  # Path raises for "~nobody"


def check_output(
    path: str | os.PathLike[str],
    overwrite: bool = False,
    example: str = "model.les.pt",
    *,
    inputs: Mapping[str, str | os.PathLike[str] | None],
) -> Path:
    """The absolute path; rejects a file that exists, cannot be written or is an input.

    `example` is the name of such a file, for messages; for `inputs` see `refuse_inputs`.
    """
    output = user_path(path)
    with writing(output):  # such as a name that is too long
        if output.exists() and not output.is_file():
            kind = "a directory" if output.is_dir() else "not a regular file"
            raise OutputError(f"output: {output} is {kind}; give a file name such as {example}")
        refuse_inputs(output, inputs)
        if (output.exists() or output.is_symlink()) and not overwrite:
            raise OutputError(f"output: {output} exists; choose another name or pass --overwrite")
        if not output.parent.is_dir():
            raise OutputError(
                f"output: the directory {output.parent} does not exist; create it first"
            )
        if not os.access(output.parent, os.W_OK):
            raise OutputError(f"output: no permission to write in {output.parent}")
    return output


def refuse_inputs(
    output: str | os.PathLike[str], inputs: Mapping[str, str | os.PathLike[str] | None]
) -> None:
    """Reject an output that is an input, or a directory that holds one. Links are followed.

    `inputs` are files and directories by the name of their argument; None if not given.
    """
    target = user_path(output)
    for name, given in inputs.items():
        if given is None:
            continue
        source = user_path(given)
        if _same_file(target, source):
            raise OutputError(
                f"output: {target} is the file that {name} reads ({source}); choose another output"
            )
        if source.is_dir() and source.resolve() in target.resolve().parents and target.exists():
            raise OutputError(
                f"output: {target} is a file of the directory that {name} reads ({source}); choose "
                "another output"
            )
        if target.is_dir() and target.resolve() in source.resolve().parents:
            raise OutputError(
                f"output: the directory {target} holds {source}, which {name} reads; choose a "
                "directory of its own for the output"
            )


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there (yet)
        return one.resolve() == other.resolve()


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an `OSError` while a file or directory is written into an `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}{_free_space(Path(path))}"
        ) from error


def _free_space(path: Path) -> str:
    for folder in (path.absolute(), *path.absolute().parents):
        if not os.path.isdir(folder):  # Path raises for a name that is too long
            continue
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            continue
        return f" ({free / 1e6:.1f} MB free in {folder})"
    return ""


def write_atomically(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write a file so that it appears complete, even if the machine crashes.

    `overwrite` says whether a file that has appeared meanwhile is replaced.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with writing(path):
        try:
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if overwrite:
                os.replace(part, path)
            else:
                os.link(part, path)  # fails, unlike replace, if somebody was faster
        except FileExistsError:
            raise OutputError(f"output: {path} appeared meanwhile; nothing was written") from None
        finally:
            part.unlink(missing_ok=True)
        sync_directory(path.parent)


def remove_parts(path: Path) -> None:
    """Remove temporary files of processes that were killed in `write_atomically`."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        part.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Flush the names of new and renamed files in a directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
