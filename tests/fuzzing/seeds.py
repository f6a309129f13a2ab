"""Sound files of every kind, small, made without any framework.

Where a developer has models of others, these too.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from support import checkpoints

from fuzzing.cases import Missing, Seed

if TYPE_CHECKING:
    from openmm_les.artifact.canonical import CanonicalModel
    from openmm_les.evaluation.portable import PortableModel

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT.parent / "shared" / "models"
PEPTIDE = ROOT / "examples" / "alanine_dipeptide.pdb"
DEMO_MODEL = ROOT / "training" / "les_demo" / "les-demo.model"
DEMO_ARTIFACT = ROOT / "openmm_les" / "models" / "les-demo.les.pt"
#: Larger models make cases slow and do not read otherwise.
_LARGEST = 3 << 20
#: A published model that is none, whose file a server of ours has.
NAME = "fuzzed"
#: A file, and its content, that no run may touch.
OUTSIDE = "outside.txt"


def _folder(base: Path, name: str) -> Path:
    folder = base / name
    folder.mkdir()
    return folder


def _copied(base: Path, *paths: Path) -> list[Seed]:
    """Each file or directory, in a folder of its own."""
    found = []
    for path in paths:
        folder = _folder(base, str(len(list(base.iterdir()))))
        target = folder / path.name
        if path.is_dir():
            shutil.copytree(path, target, copy_function=shutil.copyfile)
            files = tuple(f"{path.name}/{p.name}" for p in sorted(target.iterdir()))
            found.append(Seed(folder, path.name, files))
        else:
            shutil.copyfile(path, target)
            found.append(Seed.of(target))
    return found


def models(base: Path, family: str) -> list[Seed]:
    """The small checkpoints of a family, what else it writes, and published ones."""
    names = [name for name in checkpoints.SYNTHETIC if checkpoints.family_of(name) == family]
    if not names:
        raise Missing(f"no checkpoint of the family {family} in {checkpoints.FOLDER}")
    found = [checkpoints.checkpoint(name, _folder(base, "unpacked-" + name)) for name in names]
    for number, make in enumerate(_OTHERS.get(family, ())):
        found.append(make(_folder(base, f"made{number}")))
    return _copied(base, *found, *_published(family))


def _published(family: str) -> list[Path]:
    names = [path.stem for path in sorted(MODELS.glob(f"{family}_*.npz"))]
    paths = [checkpoints.stored(MODELS, name) for name in names]
    return [p for p in paths if p and (p.is_dir() or p.stat().st_size <= _LARGEST)]


def _cace_without_messages(folder: Path) -> Path:
    from oracles.cace_models import synthetic_cace

    return synthetic_cace(folder / "x.pth", messages=0)


def _nequip_of_the_fork(folder: Path) -> Path:
    from oracles.nequip_models import synthetic_nequip

    return synthetic_nequip(folder / "x.ckpt", old=True)


#: Layouts that the small checkpoints do not have.
_OTHERS: dict[str, tuple[Callable[[Path], Path], ...]] = {
    "mace": (lambda _: DEMO_MODEL,),
    "cace": (_cace_without_messages,),
    "nequip": (_nequip_of_the_fork,),
}


def export_options(path: Path, family: str) -> dict[str, Any]:
    """What users say beside a file of a family; heads have the small checkpoints alone."""
    name = path.name.partition(".")[0]
    if name in checkpoints.SYNTHETIC:
        return checkpoints.EXPORT_OPTIONS[name]
    options = checkpoints.EXPORT_OPTIONS[family]
    return {key: value for key, value in options.items() if key != "head"}


def artifacts(base: Path) -> list[Seed]:
    """One of each family; but for the first, the script inside is any."""
    import torch
    from openmm_les_export import read_model

    from openmm_les import artifact

    script = torch.jit.script(torch.nn.Identity())
    found = []
    for family in sorted({checkpoints.family_of(name) for name in checkpoints.SYNTHETIC}):
        if family == "mace":  # that of the package, below
            continue
        with mock.patch(f"{__name__}.MODELS", Path("nowhere")):
            seed = models(_folder(base, f"model-{family}"), family)[0]
        file = seed.folder / seed.path
        model = read_model(file, **export_options(file, family))
        path = _folder(base, family) / "x.les.pt"
        found.append(Seed.of(artifact.save(model, path, module=script)))
    return found + _copied(base, DEMO_ARTIFACT)


def portable(model: CanonicalModel) -> PortableModel:
    """The module of an artifact, not compiled: small models are evaluated in milliseconds."""
    import torch

    from openmm_les.evaluation.portable import PortableModel
    from openmm_les.networks import build_network
    from openmm_les.networks.form import Form

    elements = model.hyper["elements"]
    form = Form(torch.float64, exact_radial=True, fold=False)
    network = build_network(model, range(len(elements)), form)
    return PortableModel(network, elements, model.state["reference_energies"], model.les)


def copies(base: Path) -> list[Seed]:
    """A copy in the cache, for Systems that name an artifact by its hash."""
    from openmm_les import artifact

    with _cache(base):
        artifact.store_in_cache(artifact.load(DEMO_ARTIFACT))
    return [Seed(base, ".", tuple(str(p.relative_to(base)) for p in base.rglob("*.les.pt")))]


def downloads(base: Path) -> list[Seed]:
    """A published model in the cache, and what was exported from it."""
    from openmm_les import catalog

    with _cache(base), _server(DEMO_MODEL.parent) as url, published(url):
        catalog.artifact_path(NAME)
    files = [p for p in base.rglob("*") if p.is_file() and p.suffix in (".pt", ".model")]
    return [Seed(base, ".", tuple(sorted(str(p.relative_to(base)) for p in files)))]


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    with mock.patch.dict(os.environ, {"OPENMM_LES_CACHE_DIR": str(folder)}):
        yield


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """The files of a folder, for as long as the context lasts."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def published(url: str) -> Iterator[None]:
    """The demonstration model as one that somebody published; its export is at hand."""
    from openmm_les import catalog

    entry = catalog.Entry(
        name=NAME,
        aliases=(),
        description="a model",
        base_url=url,
        file=DEMO_MODEL.name,
        blob=catalog.git_blob_id(DEMO_MODEL),
        licence="MIT",
        citation="nobody",
        largest=2 * DEMO_MODEL.stat().st_size,
    )

    def export(_: object, source: Path, output: Path, **options: object) -> Path:
        shutil.copyfile(DEMO_ARTIFACT, output)
        return output

    with (
        mock.patch.object(catalog, "MODELS", (entry,)),
        mock.patch("openmm_les_export.export", partial(export, None)),
    ):
        yield


# --- structures and settings --------------------------------------------------------------------


def pdb(base: Path) -> list[Seed]:
    """A peptide, and water in a box."""
    from support.runs import water_box

    return [*_copied(base, PEPTIDE), Seed.of(water_box(_folder(base, "water") / "water.pdb"))]


def cif(base: Path) -> list[Seed]:
    """The same as mmCIF."""
    from openmm import app

    found = []
    for seed in pdb(_folder(base, "pdb")):
        file = app.PDBFile(str(seed.folder / seed.path))
        path = _folder(base, Path(seed.path).stem) / f"{Path(seed.path).stem}.cif"
        with path.open("w") as stream:
            app.PDBxFile.writeFile(file.topology, file.positions, stream)
        found.append(Seed.of(path))
    return found


def settings(base: Path) -> list[Seed]:
    """All settings, and some."""
    from openmm_les import simulation as md

    folder = _folder(base, "all")
    config = md.RunConfig(structure=folder / "a.pdb", model="les-demo", output=folder / "run")
    (folder / "config.yaml").write_text(config.to_yaml(folder))
    short = _folder(base, "short") / "config.yaml"
    short.write_text(
        "structure: a.pdb\nmodel: les-demo\nensemble: NPT\nsteps: 2_000\ntemperature: 3.1e+2\n"
        "response: [dipole, charges]\nresponse_interval: 4\nreport_interval: 100\n"
        "equilibration_steps: 0\nml_region: [residue LIG]\nforce_field: [amber14-all.xml]\n"
    )
    return [Seed.of(folder / "config.yaml"), Seed.of(short)]


def system(base: Path) -> list[Seed]:
    """The force field of a peptide, beside its structure."""
    import openmm
    from openmm import app

    shutil.copyfile(PEPTIDE, base / PEPTIDE.name)
    field = app.ForceField("amber14-all.xml")
    made = field.createSystem(app.PDBFile(str(PEPTIDE)).topology, constraints=app.HBonds)
    (base / "system.xml").write_text(openmm.XmlSerializer.serialize(made))
    return [Seed(base, "system.xml", ("system.xml",))]


def force_field(base: Path) -> list[Seed]:
    """A force field of water, beside its structure."""
    from openmm import app
    from support.runs import water_box

    water_box(base / "water.pdb")
    shutil.copyfile(Path(app.__file__).parent / "data" / "tip3p.xml", base / "field.xml")
    return [Seed(base, "field.xml", ("field.xml",))]


def run_log(base: Path) -> list[Seed]:
    """What a run says of its steps."""
    header = '#"Step","Time (ps)","Potential Energy (kJ/mole)","Temperature (K)"\n'
    rows = [f"{20 * k},{0.01 * k},{-126.5 + 0.1 * k},{300.0 - k}\n" for k in range(1, 9)]
    (base / "log.csv").write_text(header + "".join(rows))
    return [Seed.of(base / "log.csv")]


def checkpoint(base: Path) -> list[Seed]:
    """Of a run, with a file that grows, and one outside of its directory."""
    import openmm
    from openmm import app

    from openmm_les.simulation.checkpoint import Checkpoint, FileState
    from openmm_les.simulation.config import RunConfig

    made = app.ForceField("amber14-all.xml").createSystem(app.PDBFile(str(PEPTIDE)).topology)
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(made, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(app.PDBFile(str(PEPTIDE)).positions)
    folder = _folder(base, "run")
    (base / OUTSIDE).write_text(OUTSIDE)
    (folder / "log.csv").write_text('#"Step"\n10\n20\n')
    config = RunConfig(structure=PEPTIDE, model="les-demo", steps=100, report_interval=10)
    requested = config.model_dump(mode="json")
    what = Checkpoint(
        phase="production",
        step=20,
        context=context.createCheckpoint(),
        box=[[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]],
        requested=requested,
        resolved=requested | {"seed": 3},
        structure_sha256="0" * 64,
        model_sha256="1" * 64,
        environment={"openmm": "8"},
        wall_seconds=1.5,
        outputs={"log.csv": FileState.of(folder / "log.csv")},
    )
    what.write(folder / "checkpoint.zip")
    return [Seed(base, "run/checkpoint.zip", ("run/checkpoint.zip",))]


# --- tables -------------------------------------------------------------------------------------


def series(base: Path, suffix: str) -> list[Seed]:
    """Time series of the dipole, and of velocities."""
    from openmm_les.analysis.formats import open_series
    from openmm_les.errors import InputError

    rng = np.random.default_rng(1)
    found = []
    for names, atoms in ((["dipole"], []), (["velocities"], [0, 1, 2])):
        path = _folder(base, names[0]) / f"response{suffix}"
        try:
            file = open_series(path, names, atoms)
        except InputError as error:
            raise Missing(str(error)) from None
        file.create()
        for step in range(48):
            values = rng.normal(size=(len(atoms), 3) if atoms else 3)
            file.append(4 * step, 0.002 * step, {names[0]: values})
        found.append(Seed.of(path))
    return found


def references(base: Path) -> list[Seed]:
    """Structures with energies of a model in extended XYZ, open and periodic; the model beside."""
    import torch
    from openmm_les_export import read_model
    from oracles.nequip_models import LES, synthetic_nequip

    rng = np.random.default_rng(2)
    model = portable(read_model(synthetic_nequip(base / "x.ckpt"), **LES))
    numbers = torch.tensor([8, 1, 1])
    water = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]])
    found = []
    for name, lattice in (("open", ""), ("box", 'Lattice="9 0 0 0 9 0 0 0 9" ')):
        rows = []
        for _ in range(6):
            places = np.round(water + rng.normal(scale=0.1, size=(3, 3)), 6)
            cell = 9.0 * torch.eye(3, dtype=torch.float64)
            energy, forces, _ = model(torch.from_numpy(places), numbers, cell, bool(lattice))
            what = "Properties=species:S:1:pos:R:3:forces:R:3"
            rows += ["3", f"{lattice}{what} energy={float(energy):.8f}"]
            for symbol, atom in zip("OHH", np.hstack([places, forces.numpy()]), strict=True):
                rows.append(f"{symbol} " + " ".join(f"{x:.6f}" for x in atom))
        path = _folder(base, name) / "data.xyz"
        path.write_text("\n".join(rows) + "\n")
        shutil.copyfile(base / "x.ckpt", path.with_name("x.ckpt"))
        found.append(Seed(path.parent, path.name, (path.name,)))
    return found


def energies(base: Path, suffix: str) -> list[Seed]:
    """Energies of isolated atoms."""
    texts = {
        ".json": '{"H": -13.6, "8": -2.0418e3, "C": -1029}\n',
        ".yaml": "# eV\nH: -13.6\n8: -2.0418e+3\n'C': -1029\n",
    }
    path = base / f"energies{suffix}"
    path.write_text(texts[suffix])
    return [Seed.of(path)]
