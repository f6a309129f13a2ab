"""The process that leads: one child for each stage, with a time limit."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from environment import environment

from check.stages import Stage

_SCRIPT = Path(__file__).parents[1] / "gpu_check.py"
_LAST_LINES = 12
#: Limits are for a GPU; a CPU may be busy with other work.
_PATIENCE = 5.0


def default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def run(
    stages: Sequence[Stage], folder: Path, device: str, seconds: float, output: Path
) -> dict[str, Any]:
    """Run stages, and write what is known after each of them.

    Args:
        stages: in this order.
        folder: see `carried.Carried`.
        device: torch device.
        seconds: for all of them; what is left at the end is not run.
        output: JSON file.

    Returns:
        What the file holds.
    """
    begin = time.monotonic()
    on_gpu = device.startswith("cuda")
    patience = 1.0 if on_gpu else _PATIENCE
    document: dict[str, Any] = {"environment": environment(0), "device": device, "stages": {}}

    def run_one(stage: Stage) -> dict[str, Any]:
        left = patience * seconds - (time.monotonic() - begin)
        limit = min(patience * stage.seconds, left)
        return _child(stage, folder, device, limit) if limit > 5.0 else {"status": "no time left"}

    # Side by side where no time that is measured matters.
    with ThreadPoolExecutor(1 if on_gpu else min(4, os.cpu_count() or 1)) as workers:
        for stage, result in zip(stages, workers.map(run_one, stages), strict=True):
            document["stages"][stage.name] = result
            document["minutes"] = (time.monotonic() - begin) / 60
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(document, indent=1) + "\n")
            took = f"{result.get('seconds', 0.0):6.1f} s"
            print(f"{stage.name:12s} {took}  {result['status']}", flush=True)
    return document


def _child(stage: Stage, folder: Path, device: str, limit: float) -> dict[str, Any]:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        found = Path(temporary) / "found.jsonl"
        command = [sys.executable, str(_SCRIPT), "--child", stage.name, str(found)]
        with (Path(temporary) / "log").open("w+") as log:
            process = subprocess.Popen(
                [*command, "--carried", str(folder), "--device", device],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={"OMP_NUM_THREADS": "1"} | dict(os.environ),
            )
            try:
                code = process.wait(limit)
                status = "done" if code == 0 else f"ended with status {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                status = f"stopped after {limit:.0f} s"
            log.seek(0)
            lines = log.read().splitlines()[-_LAST_LINES:]
        entries = found.read_text().splitlines() if found.exists() else []
    result: dict[str, Any] = {"status": status, "seconds": time.monotonic() - begin}
    result["found"] = dict(json.loads(line) for line in entries)
    if status != "done":
        result["log"] = lines
    return result
