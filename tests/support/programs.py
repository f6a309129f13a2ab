"""Programs as a user starts them, in processes that begin with large packages imported.

Importing torch and OpenMM takes longer than most of what these programs do. Nothing of this project
is imported before, so that a program still has to import all that it uses.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

#: Makes processes that have imported these packages.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["torch", "openmm.app", "ase.io", "numba", "matplotlib.figure"])


def run_program(path, *arguments, folder, **variables) -> subprocess.CompletedProcess[str]:
    """What ``python PATH ARGUMENTS`` in a folder printed, and its exit status.

    `variables` are added to the environment.
    """
    command = [os.path.abspath(path), *map(str, arguments)]
    environment = {**os.environ, **variables}
    with tempfile.TemporaryDirectory() as kept:
        texts = [Path(kept) / name for name in ("stdout", "stderr")]
        process = FORKSERVER.Process(target=_main, args=(command, folder, environment, texts))
        process.start()
        process.join()
        return subprocess.CompletedProcess(
            command, process.exitcode, *(text.read_text() for text in texts)
        )


def run_code(code, *arguments, folder, **variables) -> subprocess.CompletedProcess[str]:
    """The same of ``python -c CODE ARGUMENTS``."""
    with tempfile.TemporaryDirectory() as kept:
        program = Path(kept) / "program.py"
        program.write_text(f"import sys\nsys.path[0] = {str(folder)!r}\n{code}")
        return run_program(program, *arguments, folder=folder, **variables)


def _main(command, folder, environment, texts) -> None:
    for number, text in enumerate(texts, 1):
        os.dup2(os.open(text, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = command
    sys.path.insert(0, os.path.dirname(command[0]))
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()  # as at the end of any other process
