"""The script inside an artifact, for plain `torch.jit.load`, against its weights.

Nothing else ties the two together. A script of somebody hostile can write files, so it runs in a
child process that can open none.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openmm_les.errors import VerificationError

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact

_CODE = """
from openmm_les_export.verification import script_check
script_check.answer(*sys.argv[1:])
"""
#: What it may take: time [s], and memory beyond what the weights have taken [bytes].
_SECONDS, _MEMORY = 600.0, 4 << 30


def check_script(artifact: Artifact) -> dict[str, Any]:
    """Compare the script of an artifact, in a child process, with the weights.

    Returns the number of ``structures`` and the ``max_errors`` by quantity, or raises a
    `VerificationError`.
    """
    from openmm_les.processes.children import run_python

    with tempfile.TemporaryDirectory() as folder:
        arguments = str(artifact.path), artifact.sha256
        outcome = run_python(_CODE, *arguments, seconds=_SECONDS, folder=folder)
    failure = outcome.failure or outcome.data.get("failure")
    if failure:
        raise VerificationError(
            f"{artifact.path}: its script is not what its weights give: {failure}; do not load it "
            "with torch.jit.load, and ask for a new file where you got it"
        )
    return outcome.data


def answer(path: str, sha256: str) -> None:
    """What the child process does; the last line that it prints is one of JSON."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what the script prints is no answer
    try:
        found = _compare(Path(path), sha256)
    except VerificationError as error:
        found = {"failure": str(error)}
    except Exception as error:
        found = {"failure": " ".join(f"{type(error).__name__}: {error}".split())[-500:]}
    os.write(answers, json.dumps(found).encode())


def _compare(path: Path, sha256: str) -> dict[str, Any]:
    import torch

    from openmm_les import artifact as artifacts
    from openmm_les_export.verification.compare import portable_path
    from openmm_les_export.verification.probes import probes_for

    torch.set_num_threads(1)
    artifact = artifacts.load(path)
    content = path.read_bytes()
    if {sha256} != {artifact.sha256, hashlib.sha256(content).hexdigest()}:
        raise ValueError("the file changes meanwhile")
    canonical, dtype, layout = artifact.canonical, artifact.metadata["dtype"], artifact.layout
    probes = probes_for(canonical)
    trusted = io.BytesIO()
    torch.jit.save(artifacts.build_module(canonical, dtype), trusted)  # type: ignore[no-untyped-call]
    trusted.seek(0)
    # Also loads, before the door is closed, whatever torch loads at the first use.
    weights = portable_path(torch.jit.load(trusted), dtype, layout)  # type: ignore[no-untyped-call]
    expected = [(probe, weights.evaluate(probe)) for probe in probes]

    _close_the_door()
    script = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    errors = portable_path(script, dtype, layout).largest_errors(expected, canonical.les)
    return {"structures": len(probes), "max_errors": errors}


def _close_the_door() -> None:
    """From here on the process opens no file, writes to none, and takes memory up to a limit."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + _MEMORY
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (most, most))
