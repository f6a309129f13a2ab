"""Systems of the first LES papers, computed again and compared with what was published.

    python benchmarks/papers.py SHARED [--systems NAME ...] [--exports FOLDER]

SHARED holds ``models`` and ``data`` of the papers, which may not be distributed. Writes
``benchmarks/results/papers.json``, the tables in ``docs/reference/papers.md``, and the pictures in
``docs/explanation``. With `--systems` (or names of models) only those are computed; of the others
numbers and pictures stay. `--exports` keeps the artifacts for the next time.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from environment import environment
from published import pictures, tables
from published.agreement import MODELS, agreement
from published.clusters import ADDED, clusters
from published.dimers import PAIRS, dimers
from published.findings import Findings
from published.gold import gold
from published.liquids import electrolyte, interface
from published.models import Published
from published.molecules import dipoles
from published.random_charges import random_charges

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "papers.json"
PAGE = ROOT / "docs" / "reference" / "papers.md"
PICTURES = ROOT / "docs" / "explanation"

#: In the order of the page.
SYSTEMS: dict[str, Callable[[Published], Findings]] = {
    "random charges": random_charges,
    **{f"{kind} dimer": partial(dimers, kind=kind) for kind in PAIRS},
    **{system: partial(clusters, system=system) for system in ADDED},
    "Au2 on MgO": partial(gold, model="au2_mgo_al"),
    "Au2 on MgO, `les` package": partial(gold, model="au_mgo_al_leswrapper_nu2"),
    "dipeptides, CACE": partial(dipoles, code="CACE"),
    "dipeptides, MACE": partial(dipoles, code="MACE"),
    "KF in water": electrolyte,
    "LiCl and GaF3": interface,
}


def computed(
    published: Published, chosen: list[str], content: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Adds what was chosen, of systems and models, to the JSON file's content; curves by system.

    Curves have values of the authors' data beside ours, so that the file does not hold them.
    """
    rows = content.setdefault("systems", {})
    models = content.setdefault("agreement", {})
    curves = {}
    for name in chosen:
        start = time.perf_counter()
        if name in MODELS:
            models[name] = agreement(published, name)
        else:
            findings = SYSTEMS[name](published)
            rows[name] = [asdict(row) for row in findings.rows]
            curves[name] = findings.curves
        print(f"{name:<40}{time.perf_counter() - start:8.1f} s", flush=True)
    content["systems"] = {name: rows[name] for name in SYSTEMS if name in rows}
    content["agreement"] = {name: models[name] for name in MODELS if name in models}
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--systems", nargs="+", default=[*SYSTEMS, *MODELS], metavar="NAME")
    parser.add_argument("--exports", type=Path)
    arguments = parser.parse_args()
    content = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        published = Published(arguments.shared, arguments.exports or Path(folder))
        curves = computed(published, arguments.systems, content)
    content["environment"] = environment(torch.get_num_threads())
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    tables.write(PAGE, content)
    pictures.draw(curves, PICTURES)


if __name__ == "__main__":
    main()
