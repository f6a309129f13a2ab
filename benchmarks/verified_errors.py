"""How far what simulations run is from the original models, as exports find it.

    python benchmarks/verified_errors.py [NAME=FILE ...]

Each FILE is a trained model; without any, these are the demonstration model and the synthetic
checkpoints of the tests. The largest errors over all structures of the verification are printed for
the portable module and for `SystemModel` in both precisions, with the direct Ewald sum and with the
mesh, and written to ``benchmarks/results/verified_errors.json``. A family without its original code
here is left out.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from environment import environment
from openmm_les_export.checkpoints.unpickle import open_model
from openmm_les_export.families.dispatch import canonical_model, reference_model
from openmm_les_export.options import ModelOptions
from openmm_les_export.verification.compare import verify
from openmm_les_export.verification.probes import probes_for

from openmm_les.artifact import Artifact, build_module

ROOT = Path(__file__).parents[1]
QUANTITIES = {"energy_per_atom": "eV/atom", "force": "eV/A", "charge": "e"}


def models_of(given: list[str], unpacked: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Files and options of their export, by name."""
    if given:
        return {name: (Path(file), {}) for name, file in (text.split("=", 1) for text in given)}
    sys.path.insert(0, str(ROOT / "tests"))
    from support import checkpoints

    demo = ROOT / "training" / "les_demo" / "les-demo.model"
    return {"les-demo": (demo, {})} | {
        name: (checkpoints.checkpoint(name, unpacked), checkpoints.EXPORT_OPTIONS.get(name, {}))
        for name in checkpoints.SYNTHETIC
    }


def errors_of(file: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What `export` writes into the metadata of the artifact."""
    opened = open_model(file)
    canonical = canonical_model(opened, ModelOptions(**options))
    dtype = str(canonical.source["dtype"])
    reference = reference_model(opened, canonical)
    model = Artifact.unsaved(canonical, file, dtype=dtype)
    report = verify(model, build_module(canonical, dtype), reference, probes_for(canonical))
    return {"family": canonical.family, "against": reference.against, **report}


def measured(models: dict[str, tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    results = {}
    for name, (file, options) in models.items():
        try:
            results[name] = errors_of(file, options)
        except ImportError as error:
            print(f"{name:<16}not compared: {error}")
            continue
        for path, errors in results[name]["max_errors"].items():
            values = "".join(f"{errors[quantity]:>10.1e}" for quantity in QUANTITIES)
            print(f"{name:<16}{path:<18}{values}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="NAME=FILE")
    given = parser.parse_args().models
    print(f"{'model':<16}{'path':<18}" + "".join(f"{unit:>10}" for unit in QUANTITIES.values()))
    with tempfile.TemporaryDirectory() as folder:
        results = measured(models_of(given, Path(folder)))
    output = ROOT / "benchmarks" / "results" / "verified_errors.json"
    content = {"environment": environment(torch.get_num_threads()), "models": results}
    output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
