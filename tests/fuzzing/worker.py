"""A child process: reads one case after the other under limits, and tells what came of each.

Limits count processor time, so that a busy machine does not make a case fail; the parent has a
generous limit of wall time for what sleeps.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from fuzzing.cases import Case, Seed, SilentlyLost, Target, make_case
from fuzzing.verdicts import Outcome

#: A file that payloads make where code from a file is run.
SENTINEL = "ran"
CASE = "case.json"
#: Relative difference of numbers that are the same.
_SAME = 1e-9
_LONGEST_MESSAGE = 2000
#: Faults of one kind whose files are kept.
_MOST_KEPT = 100


@dataclass(frozen=True)
class Limits:
    """What one case may take.

    Attributes:
        cpu: processor time [s].
        wall: time [s], watched by the parent.
        address: address space beyond that of the child [bytes]; asking for more fails.
        base, multiple: a case may use `base` bytes and `multiple` times the size of its files.
    """

    cpu: int = 10
    wall: float = 180.0
    address: int = 3 * 2**29
    base: int = 64 * 2**20
    multiple: int = 16


def serve(
    pipe: Connection,
    target: Target,
    seeds: Sequence[Seed],
    numbers: Sequence[int],
    folder: Path,
    failures: Path,
    random_seed: int,
    limits: Limits,
) -> None:
    """Try the cases of these numbers, send an `Outcome` for each, and keep the files of faults."""
    folder.mkdir(parents=True, exist_ok=True)
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    faulthandler.enable()
    warnings.simplefilter("ignore")
    # What a terminal or a crash of the parent's may have left.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    expected = [_expected(target, seed, folder) for seed in seeds]
    pipe.send("ready")
    used = _status("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.address,) * 2)
    for number in numbers:
        case = make_case(target, seeds, number, random_seed)
        pipe.send(case.name)
        place = lay_out(folder / "case", target, seeds[case.seed], case)
        outcome = _try(target, seeds[case.seed], case, place, expected[case.seed], limits)
        keep(place, failures, outcome)
        pipe.send(outcome)
    pipe.close()


def _expected(target: Target, seed: Seed, folder: Path) -> np.ndarray:
    """The numbers of a sound file; warms up what is imported late."""
    place = folder / "seed"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(seed.folder, place)
    os.chdir(place)
    return np.asarray(target.read(place / seed.path), dtype=np.float64)


def lay_out(place: Path, target: Target, seed: Seed, case: Case) -> Path:
    """The files of a case, and what is needed to try it again."""
    shutil.rmtree(place, ignore_errors=True)
    files = place / "files"
    shutil.copytree(seed.folder, files)
    (files / case.file).write_bytes(case.content)
    what = {"kind": target.kind, "seed": case.seed, "number": case.number, "name": case.name}
    what |= {"file": case.file, "guarded": case.guarded}
    (place / CASE).write_text(json.dumps(what, indent=1))
    return place


def keep(place: Path, failures: Path, outcome: Outcome) -> None:
    """Copy the files of a fault to where they can be tried again."""
    kept = failures / re.sub(r"[^\w.]+", "-", f"{outcome.number}-{outcome.name}")
    if outcome.is_fault and not (failures.exists() and len(list(failures.iterdir())) >= _MOST_KEPT):
        shutil.copytree(place, kept, dirs_exist_ok=True)


def load_case(place: Path) -> tuple[str, Case]:
    """What `lay_out` wrote: the kind and the case."""
    what = json.loads((place / CASE).read_text())
    content = (place / "files" / what["file"]).read_bytes()
    kind = what.pop("kind")
    return kind, Case(content=content, **what)


def _try(
    target: Target, seed: Seed, case: Case, place: Path, expected: np.ndarray, limits: Limits
) -> Outcome:
    files = place / "files"
    size = sum(f.stat().st_size for f in files.rglob("*") if f.is_file())
    os.chdir(files)
    # The soft limit kills, and is set anew for every case.
    spent = math.ceil(time.process_time())
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (spent + limits.cpu, hard))
    _reset_peak()
    before, started = _status("VmRSS"), time.process_time()
    verdict, detail = _verdict(target, seed, case, files, expected)
    seconds, peak = time.process_time() - started, max(0, _status("VmHWM") - before)
    if verdict in ("refused", "same", "other", "message"):
        allowed = limits.base + limits.multiple * size
        if peak > allowed:
            verdict, detail = "memory", f"{peak >> 20} MB for a file of {size} bytes; {detail}"
    if (files / SENTINEL).exists():
        verdict, detail = "ran", f"code from the file was run; {detail}"
    return Outcome(case.number, case.name, verdict, detail, seconds, peak, size)


def _verdict(
    target: Target, seed: Seed, case: Case, files: Path, expected: np.ndarray
) -> tuple[str, str]:
    from openmm_les.errors import LESError

    try:
        numbers = np.asarray(target.read(files / seed.path), dtype=np.float64)
    except SilentlyLost as error:
        return "changed", str(error)
    except BaseException as error:
        if _asked_for_memory(error):
            return "memory", _line(error)
        if not isinstance(error, LESError):
            return "exception", f"{_line(error)} [{_origin(error)}]"
        return _judge_message(str(error), _names(target, seed, case))
    if numbers.shape == expected.shape and np.allclose(
        numbers, expected, rtol=_SAME, atol=0.0, equal_nan=True
    ):
        return "same", ""
    return "changed" if case.guarded else "other", f"{expected[:4]} became {numbers[:4]}"


def _names(target: Target, seed: Seed, case: Case) -> list[str]:
    """What a message may call the file; a folder that is read is no name."""
    read = [] if seed.path == "." else [Path(seed.path).name]
    return [Path(case.file).name, *read, *target.named]


def _judge_message(text: str, names: list[str]) -> tuple[str, str]:
    if not text.isprintable():
        return "message", f"not one printable line: {text[:200]!r}"
    if len(text) > _LONGEST_MESSAGE:
        return "message", f"{len(text)} characters: {text[:200]}"
    if not any(name in text for name in names):
        return "message", f"without the name of the file: {text[:300]}"
    return "refused", text


def _asked_for_memory(error: BaseException | None) -> bool:
    """Whether an allocation failed on the way, whatever it was turned into."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error) if isinstance(error, RuntimeError | OSError) else ""
        if isinstance(error, MemoryError) or "bad_alloc" in text or "allocate memory" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error)[:300].split())}"


def _origin(error: BaseException) -> str:
    """The innermost place in this project that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "openmm_les" in f.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _status(name: str) -> int:
    """A figure of this process's memory [bytes]."""
    for row in Path("/proc/self/status").read_text().splitlines():
        if row.startswith(f"{name}:"):
            return 1024 * int(row.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def _reset_peak() -> None:
    """Lets the kernel measure the peak of memory anew."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:  # then the peak is that of all cases so far
        print(f"cannot reset the peak of memory: {error}", file=sys.stderr)
