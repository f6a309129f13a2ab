"""What was simulated, with what, and where: system, model, settings, versions, what to cite."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from openmm_les.analysis.pages import Cell, Facts, Items, Listing, Part, Text
from openmm_les.arrays import FloatArray
from openmm_les.evaluation.device import cpu_name
from openmm_les.names import shorten
from openmm_les.networks.registry import families
from openmm_les.simulation.builder import environment
from openmm_les.simulation.config import RunConfig
from openmm_les.simulation.report.record import Record
from openmm_les.simulation.structures.structure import real_atoms
from openmm_les.units import ANGSTROM_PER_NM

_METHOD = (
    "Latent Ewald Summation: Cheng, npj Comput. Mater. 11, 80 (2025); King et al., Nat. Commun. "
    "16, 8763 (2025)",
    "OpenMM: Eastman et al., J. Phys. Chem. B 128, 109 (2024)",
)


def system(record: Record) -> Facts:
    """Atoms, box, ensemble and ML region."""
    config, job = record.config, record.job
    topology = job.structure.topology
    atoms = real_atoms(topology.atoms())
    counts = Counter(atom.element.symbol for atom in atoms)
    formula = " ".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))
    number = f"{len(atoms)} in {topology.getNumResidues()} residues ({formula})"
    if sites := topology.getNumAtoms() - len(atoms):
        number += f", and {sites} virtual sites"
    facts: list[tuple[str, Cell]] = [
        ("structure", str(config.structure)),
        ("atoms", number),
        ("box of the structure", _box(job.structure.box)),
        ("ensemble", _ensemble(config)),
    ]
    if job.hybrid is None:
        return Facts([*facts, ("described by the model", "everything")])
    region = job.hybrid.selected
    field = ", ".join(map(str, config.force_field or (config.system,)))
    cut = region.cut_bonds
    links = f"{len(cut)}, for {shorten(cut)}" if cut else "none"
    chosen = f"{region.atoms} atoms of {shorten(region.residues)}"
    return Facts(
        [
            *facts,
            ("described by the model", chosen),
            ("link atoms", links),
            ("embedding", config.embedding),
            ("force field", f"{field}; constraints: {config.constraints}"),
            ("interpolation", config.lambda_interpolate),
        ]
    )


def _box(vectors: FloatArray | None) -> str:
    if vectors is None:
        return "none: open boundaries"
    lengths = np.linalg.norm(vectors, axis=1)
    unit_vectors = vectors / lengths[:, None]
    cosines = (unit_vectors[i] @ unit_vectors[j] for i, j in ((1, 2), (0, 2), (0, 1)))
    angles = [float(np.degrees(np.arccos(cosine))) for cosine in cosines]
    text = " x ".join(f"{ANGSTROM_PER_NM * length:.5g}" for length in lengths) + " A"
    if np.allclose(angles, 90.0):
        return text
    return f"{text}, angles {', '.join(f'{angle:.4g}' for angle in angles)} degrees"


def _ensemble(config: RunConfig) -> str:
    text = {
        "NVT": f"NVT at {config.temperature:g} K",
        "NPT": f"NPT at {config.temperature:g} K and {config.pressure:g} bar",
        "NVE": f"NVE, begun at {config.temperature:g} K",
    }[config.ensemble]
    return f"{text}, time step {config.time_step:g} fs"


def model(record: Record) -> Facts:
    """Where the model is from, what it is for, and its licence."""
    artifact, metadata, known = record.job.artifact, record.job.artifact.metadata, record.entry
    family = families().get(metadata["family"])
    export = metadata.get("verification") or {}
    stated = [key for key in ("status", "against") if key in export]
    return Facts(
        [
            ("name", Path(record.config.model).name),
            ("made for", "not stated" if known is None else known.description),
            ("family", metadata["family"] if family is None else family.title),
            ("licence", metadata.get("licence") or "not stated"),
            ("export", ", against ".join(str(export[key]) for key in stated) or "not verified"),
            ("exported by", f"openmm-les {metadata['versions'].get('openmm-les')}"),
            ("file", str(artifact.path)),
            ("sha256 of the file", artifact.sha256),
        ]
    )


def settings(record: Record) -> list[Part]:
    """What differs from the defaults, and everything."""
    fields = RunConfig.model_fields
    values = record.config.model_dump(mode="json")
    rows: list[tuple[str, Cell]] = []
    for name, value in values.items():
        if fields[name].is_required() or name == "output":
            rows.append((name, _text(value)))
        elif value != fields[name].default:
            rows.append((name, f"{_text(value)} (default: {_text(fields[name].default)})"))
    listing = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)
    return [
        Text("Settings other than the defaults:"),
        Facts(rows),
        Text("All settings, with what was chosen for this machine:"),
        Listing(listing),
    ]


def _text(value: object) -> str:
    """A value as a file has it, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def machine(record: Record) -> Facts:
    """Versions and hardware of the last checkpoint, without names of users or hosts."""
    found = environment() if record.checkpoint is None else record.checkpoint.environment
    facts: list[tuple[str, Cell]] = [
        (name, None if value is None else str(value)) for name, value in found.items()
    ]
    python = platform.python_version()
    return Facts([*facts, ("Python", python), ("CPU", cpu_name()), ("system", platform.platform())])


def citations(record: Record) -> Items:
    """What to cite: model, network, method, and OpenMM."""
    metadata, known = record.job.artifact.metadata, record.entry
    family = families().get(metadata["family"])
    stated = metadata.get("citation") or (None if known is None else known.citation)
    texts = [f"The model: {stated or 'its file does not say what to cite; ask who made it'}"]
    if family is not None and family.citation:
        texts.append(f"Its network: {family.citation}")
    return Items([*texts, *_METHOD])
