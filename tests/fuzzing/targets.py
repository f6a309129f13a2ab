"""The table of kinds of files, and how each is read."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fuzzing import hostile_archives, hostile_hdf5, hostile_pickles, hostile_texts, seeds
from fuzzing.cases import Numbers, SilentlyLost, Target
from openmm_les.networks.registry import families

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact
    from openmm_les.artifact.canonical import CanonicalModel


def prepare() -> None:
    """Imports what readers import, so that children need not."""
    import ase.io
    import openmm.app
    import openmm_les_export
    import torch

    import openmm_les.evaluation.portable
    import openmm_les.simulation

    del ase, openmm, openmm_les_export, torch, openmm_les


#: Four atoms that any potential has an energy for [A], and a box [A].
_PLACES = [[0.0, 0.0, 0.0], [1.1, 0.2, 0.0], [0.1, 1.3, 0.4], [1.4, 1.2, 1.5]]
_BOX = 9.5


def energies(model: CanonicalModel) -> list[float]:
    """Energy [eV] and charges [e] of four atoms, alone and in a box, without compiling anything."""
    import torch

    portable = seeds.portable(model)
    elements = model.hyper["elements"]
    numbers = torch.tensor([elements[k % len(elements)] for k in range(4)])
    positions = torch.tensor(_PLACES, dtype=torch.float64)
    cell = _BOX * torch.eye(3, dtype=torch.float64)
    found: list[float] = []
    for periodic in (False, True):
        energy, _, charges = portable(positions, numbers, cell, periodic)
        found += [float(energy), *charges.flatten().tolist()]
    return found


def _checkpoint_of(family: str, path: Path) -> Numbers:
    from openmm_les_export import read_model

    return energies(read_model(path, **seeds.export_options(path, family)))


def _artifact(path: Path) -> Numbers:
    from openmm_les import artifact

    artifact.inspect(path)
    opened = artifact.load(path)
    return [opened.cutoff, *opened.elements, *energies(opened.canonical)]


def _weights(opened: Artifact) -> list[float]:
    """Stands for the energies, and is there sooner."""
    model = opened.canonical
    sums = [float(tensor.double().square().sum()) for tensor in model.state.values()]
    return [opened.cutoff, *opened.elements, *map(float, model.les.values()), *sums]


def _copy(folder: Path) -> Numbers:
    """A System that was saved with a model by its hash, whose file is not there any more."""
    from openmm_les import artifact

    os.environ["OPENMM_LES_CACHE_DIR"] = str(folder)
    (name,) = (p.name for p in folder.rglob("*.les.pt"))
    found = artifact.find("gone.les.pt", name.partition(".")[0])
    return _weights(artifact.load(found))


def _download(folder: Path) -> Numbers:
    """A published model by its name, without a network."""
    from openmm_les import artifact, catalog

    os.environ["OPENMM_LES_CACHE_DIR"] = str(folder)
    with seeds.published("http://127.0.0.1:9"):
        return _weights(artifact.load(catalog.artifact_path(seeds.NAME)))


class _Warnings(logging.Handler):
    """Whether a reader warned."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen = False

    def emit(self, record: logging.LogRecord) -> None:
        self.seen = True


def _structure(path: Path) -> Numbers:
    from openmm_les.simulation.structures.structure import read_structure

    told, logger = _Warnings(), logging.getLogger("openmm_les")
    logger.addHandler(told)
    try:
        read = read_structure(path)
    finally:
        logger.removeHandler(told)
    if path.suffix == ".pdb" and not told.seen:
        wanted, got = _atoms_of_pdb(path.read_bytes()), read.topology.getNumAtoms()
        if got < wanted:
            raise SilentlyLost(f"{wanted} atoms in the file became {got} without a warning")
    return np.asarray(read.positions).ravel()


def _atoms_of_pdb(content: bytes) -> int:
    """Records of atoms in the first model."""
    number = 0
    for row in content.decode("latin-1").lstrip("ï»¿").splitlines():
        if row.startswith(("ENDMDL", "END ")) or row.strip() == "END":
            break
        number += row.startswith(("ATOM  ", "HETATM"))
    return number


def _settings(path: Path) -> Numbers:
    from openmm_les import simulation as md

    dumped = md.load(path).model_dump(mode="json")
    return [float(v) for v in dumped.values() if isinstance(v, int | float)]


def _system(path: Path) -> Numbers:
    from openmm_les import simulation as md
    from openmm_les.simulation.force_field import make_force_field
    from openmm_les.simulation.structures.structure import read_structure

    start = path.with_name(seeds.PEPTIDE.name)
    config = md.RunConfig(
        structure=start, model="les-demo", system=path, ml_region=("residue ALA",)
    )
    _, system = make_force_field(config, read_structure(start))
    masses = [system.getParticleMass(k)._value for k in range(system.getNumParticles())]
    return [*masses, *(force.getForceGroup() for force in system.getForces())]


def _force_field(path: Path) -> Numbers:
    from openmm_les import simulation as md
    from openmm_les.simulation.force_field import make_force_field
    from openmm_les.simulation.structures.structure import read_structure

    config = md.RunConfig(
        structure=path.with_name("water.pdb"),
        model="les-demo",
        force_field=(str(path),),
        ml_region=("residue 1",),
        nonbonded_cutoff=0.3,
    )
    _, system = make_force_field(config, read_structure(config.structure))
    return [system.getParticleMass(k)._value for k in range(system.getNumParticles())]


def _run_log(path: Path) -> Numbers:
    from openmm_les import simulation as md
    from openmm_les.simulation.summary import summarise

    config = md.RunConfig(structure=seeds.PEPTIDE, model="les-demo").model_dump(mode="json")
    found = summarise(path, config, atoms=22, wall_seconds=1.0, files={})
    means = (found.temperature, found.potential_energy)
    return [float("nan") if x is None else x for m in means for x in (m.mean, m.std)]


def _run_checkpoint(path: Path) -> Numbers:
    """Reads it, and takes the files of the run back to it."""
    from openmm_les.simulation.output import RunDirectory

    directory = RunDirectory(path.parent)
    read = directory.checkpoint()
    if read is None:
        raise SilentlyLost("there is a checkpoint, but the run would start from the beginning")
    directory.restore(read)
    if (path.parent.parent / seeds.OUTSIDE).read_text() != seeds.OUTSIDE:
        raise SilentlyLost("a file outside of the directory of the run was changed")
    digest = hashlib.sha256(read.context).digest()
    return [float(read.step), *digest, *np.ravel(read.box or [])]


def _series(path: Path) -> Numbers:
    from openmm_les.analysis import spectra
    from openmm_les.analysis.formats import read

    spectrum = spectra.compute(read(path), spectra.SpectrumOptions())
    return [x for column in spectrum.columns().values() for x in np.ravel(column)]


def _references(path: Path) -> Numbers:
    from openmm_les.analysis.validation import read_frames

    frames = read_frames(path)
    return [x for f in frames for x in (f.energy or 0.0, *np.ravel(f.positions))]


def _calibration(path: Path) -> Numbers:
    from openmm_les_export.calibration import calibrate
    from openmm_les_export.checkpoints.unpickle import open_model
    from openmm_les_export.families.dispatch import canonical_model
    from openmm_les_export.families.les_choice import LESChoice
    from openmm_les_export.options import ModelOptions
    from oracles.nequip_models import LES

    opened = open_model(path.with_name("x.ckpt"))

    def read(choice: LESChoice) -> CanonicalModel:
        kept = "removed" if choice.remove_self_interaction else "kept"
        return canonical_model(opened, ModelOptions(**(LES | {"self_interaction": kept})))

    choice = calibrate(read, path, LESChoice(LES["norm_factor"], None, {}))
    return [choice.prefactor, choice.remove_self_interaction]


def _energies(path: Path) -> Numbers:
    from openmm_les_export.atomic_energies import read_atomic_energies

    return [x for item in sorted(read_atomic_energies(path).items()) for x in item]


def _table() -> list[Target]:
    pickles = hostile_pickles.archives() | hostile_archives.containers()
    return [
        Target("artifact", seeds.artifacts, _artifact, hostile_archives.artifacts()),
        *(
            Target(
                family,
                partial(seeds.models, family=family),
                partial(_checkpoint_of, family),
                pickles if family in ("mace", "nequip") else {},
            )
            for family in families()
        ),
        Target("cached-copy", seeds.copies, _copy, named=("gone.les.pt",), guarded=True),
        Target("cached-download", seeds.downloads, _download, named=(seeds.NAME,), guarded=True),
        Target("pdb", seeds.pdb, _structure, hostile_texts.structures(), _HARMLESS),
        Target("mmcif", seeds.cif, _structure, hostile_texts.structures(), _HARMLESS),
        Target("settings", seeds.settings, _settings, hostile_texts.documents(), _HARMLESS),
        Target("system", seeds.system, _system, hostile_texts.systems(), _HARMLESS),
        Target(
            "force-field",
            seeds.force_field,
            _force_field,
            hostile_texts.force_fields(),
            _HARMLESS,
        ),
        Target("run-log", seeds.run_log, _run_log, hostile_texts.tables(), _HARMLESS),
        Target(
            "run-checkpoint",
            seeds.checkpoint,
            _run_checkpoint,
            hostile_archives.runs(),
            named=("log.csv",),
        ),
        Target(
            "series-csv",
            partial(seeds.series, suffix=".csv"),
            _series,
            hostile_texts.tables(),
            _HARMLESS,
        ),
        Target("series-hdf5", partial(seeds.series, suffix=".h5"), _series, hostile_hdf5.series()),
        Target("references", seeds.references, _references, hostile_texts.references(), _HARMLESS),
        Target("calibration", seeds.references, _calibration),
        Target("energies-json", partial(seeds.energies, suffix=".json"), _energies),
        Target(
            "energies-yaml",
            partial(seeds.energies, suffix=".yaml"),
            _energies,
            hostile_texts.documents(),
            _HARMLESS,
        ),
    ]


class _Everything(frozenset):  # type: ignore[type-arg]
    """Holds every name: a text says what it says."""

    def __contains__(self, _: object) -> bool:
        return True


_HARMLESS: frozenset[str] = _Everything()

TARGETS: dict[str, Target] = {target.kind: target for target in _table()}
