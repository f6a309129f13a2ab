"""Executes the notebooks among the documents, and keeps their output for the site.

    python docs/execute.py [NAME ...] [--quick]

A notebook is a page NAME.nb.md in MyST Markdown, with code in ``{code-cell}`` blocks. It runs in
build/notebooks/NAME, where it finds `examples` and `training` of the repository, and needs nothing
else: no download. What it printed and drew is kept in docs/tutorials/outputs/NAME.ipynb, which is
committed. `make docs` executes nothing: it puts that output under the code, leaves out pages that
were never executed, and refuses output of other code or of another demonstration model. Without a
NAME all are executed whose output is missing or refused.

``--quick`` takes for each cell the code of its option ``quick``, if it has one, and keeps nothing:
a try of everything in a minute or two.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from myst_nb.core.read import read_myst_markdown_notebook

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
MODEL = ROOT / "openmm_les" / "models" / "les-demo.les.pt"
SUFFIX = ".nb.md"
PAGES = sorted(DOCS.glob(f"tutorials/*{SUFFIX}"))
#: Largest picture, and all pictures of a notebook together [bytes].
PICTURE, PICTURES = 90_000, 250_000

#: Runs before a notebook. A command that fails is an error, which in Jupyter it is not; and it does
#: not write to a terminal, where its output would hold every state of a progress bar.
STRICT = r"""
def strict(command, shell=get_ipython()):
    from re import sub
    from subprocess import PIPE, STDOUT, run

    command = shell.var_expand(command, depth=1)
    done = run(command, shell=True, stdout=PIPE, stderr=STDOUT)
    lines = done.stdout.decode(errors="replace").replace("\r\n", "\n")
    print(sub(r"[^\n]*\r", "", lines), end="")  # of a line that is written anew, the last state
    done.check_returncode()


get_ipython().system = strict
del strict
"""


def name_of(page: Path) -> str:
    return page.name.removesuffix(SUFFIX)


def outputs_of(page: Path) -> Path:
    """Where the output of a page is kept."""
    return page.parent / "outputs" / f"{name_of(page)}.ipynb"


def cells_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_of(page: Path) -> list[str]:
    return [cell.source for cell in cells_of(read_myst_markdown_notebook(page.read_text()))]


def stored(page: Path) -> Any:
    """The notebook that was executed, with its output."""
    import nbformat

    return nbformat.read(outputs_of(page), as_version=4)


def model_of(page: Path) -> str:
    """Hash of the demonstration model, if the code uses it; a new model needs new output."""
    code = "".join(code_of(page))
    return hashlib.sha256(MODEL.read_bytes()).hexdigest() if "les-demo" in code else ""


def problem(page: Path) -> str:
    """Why the output of a page cannot be shown; empty if it can."""
    if page in unfinished():
        return ""
    executed = stored(page)
    if [cell.source for cell in cells_of(executed)] != code_of(page):
        return "has output of other code"
    if executed.metadata["openmm_les"]["model"] != model_of(page):
        return "has output of another les-demo"
    return ""


def unfinished() -> list[Path]:
    """Pages that were never executed, which are no part of the site yet."""
    return [page for page in PAGES if not outputs_of(page).exists()]


def refused() -> str:
    """What is wrong with the output of all pages, and the commands that repair it."""
    found = {page: text for page in PAGES if (text := problem(page))}
    lines = [f"{page.relative_to(ROOT)} {text}" for page, text in found.items()]
    names = " ".join(map(name_of, found))
    return "; ".join([*lines, f"execute it: make notebooks NAMES='{names}'"]) if found else ""


def read(text: str) -> Any:
    """A page with its output: the reader that myst-nb calls (`nb_custom_formats` in conf.py)."""
    notebook = read_myst_markdown_notebook(text, add_source_map=True)
    page = next(page for page in PAGES if page.read_text() == text)
    executed = stored(page)
    for cell, done in zip(cells_of(notebook), cells_of(executed), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    notebook.metadata |= {key: executed.metadata[key] for key in ("kernelspec", "language_info")}
    return notebook


def execute(page: Path, quick: bool) -> Any:
    """Run a page in a folder of its own; a cell that fails ends the program."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbformat.v4 import new_code_cell

    folder = ROOT / "build" / "notebooks" / name_of(page)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for shared in ("examples", "training"):
        (folder / shared).symlink_to(ROOT / shared)
    notebook = read_myst_markdown_notebook(page.read_text())
    if quick:
        for cell in cells_of(notebook):
            cell.source = cell.metadata.get("quick", cell.source)
    notebook.cells.insert(0, new_code_cell(STRICT))
    # Cells call openmm-les of the same environment.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    # The platform that all readers have, one core, and no search for a faster engine, which would
    # be part of the output.
    os.environ["OPENMM_DEFAULT_PLATFORM"], os.environ["OPENMM_CPU_THREADS"] = "CPU", "1"
    os.environ["OPENMM_LES_TUNE_AFTER"] = "inf"
    client = NotebookClient(
        notebook,
        timeout=None,
        startup_timeout=600,  # machines may be busy
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        cells = cells_of(notebook)
        has_error = [any(o.output_type == "error" for o in cell.outputs) for cell in cells]
        failed = has_error.index(True)  # the first cell is none of the page
        sys.exit(f"{page.name}: an error in code cell {failed} of {len(cells) - 1}:\n{error}")
    del notebook.cells[0]
    # Readers have another folder.
    for cell in cells_of(notebook):
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = output.text.replace(f"{folder}/", "")
    return notebook


def keep(page: Path, notebook: Any) -> int:
    """Write the output of a page; returns the size of its pictures [bytes]."""
    import nbformat

    outputs = [output for cell in cells_of(notebook) for output in cell.outputs]
    pictures = [
        len(base64.b64decode(output.data["image/png"]))
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    if max(pictures, default=0) > PICTURE or sum(pictures) > PICTURES:
        sys.exit(
            f"{page.name}: expected pictures of at most {PICTURE} bytes, {PICTURES} together, "
            f"got {pictures}; draw smaller ones"
        )
    notebook.metadata["openmm_les"] = {"model": model_of(page)}
    outputs_of(page).parent.mkdir(exist_ok=True)
    nbformat.write(notebook, outputs_of(page))
    return sum(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: whatever is refused")
    parser.add_argument("--quick", action="store_true", help="a short try; nothing is kept")
    arguments = parser.parse_args()
    known = {name_of(page): page for page in PAGES}
    if unknown := sorted({*arguments.names} - {*known}):
        parser.error(f"expected names of {', '.join(known)}, got {', '.join(unknown)}")
    names = arguments.names or [
        name
        for name, page in known.items()
        if arguments.quick or page in unfinished() or problem(page)
    ]
    for name in names:
        begin = time.perf_counter()
        print(f"{name}: running ...", flush=True)
        notebook = execute(known[name], arguments.quick)
        size = 0 if arguments.quick else keep(known[name], notebook)
        taken = time.perf_counter() - begin
        print(f"{name}: {taken:.0f} s, pictures {size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
