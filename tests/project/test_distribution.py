"""The built files: what is in them, that they work where nothing else is, and that extras resolve.

`make dist test-dist` builds the files and runs this; OPENMM_LES_DIST names the folder they are in,
and TORCH what pip is to install as torch (a CPU build is enough).
"""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIST = os.environ.get("OPENMM_LES_DIST")
TORCH = os.environ.get("TORCH", "torch")
EXTRAS = [
    "cpu",
    "ase",
    "analysis",
    "campaign",
    "cuda12",
    "cuda13",
    "examples",
    "mace",
    "nequip",
    "torchforce",
]

GROUPS = ["test", "lint", "docs", "release", "dev"]

pytestmark = pytest.mark.skipif(not DIST, reason="`make dist test-dist` runs this")

MD = """
from openmm import LangevinMiddleIntegrator, app
from openmmml import MLPotential

pdb = app.PDBFile("alanine_dipeptide.pdb")
system = MLPotential("les-demo").createSystem(pdb.topology)
simulation = app.Simulation(pdb.topology, system, LangevinMiddleIntegrator(300, 1, 0.0005))
simulation.context.setPositions(pdb.positions)
simulation.step(20)
print(simulation.context.getState(energy=True).getPotentialEnergy()._value)
"""


def run(*command, folder, status=0) -> str:
    """What a command prints, without anything of this process or of the user's in its way."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"OPENMM_LES_CACHE_DIR": str(folder / "cache")},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def built(pattern) -> Path:
    (path,) = (ROOT / DIST).glob(pattern)
    return path


@pytest.fixture(scope="module")
def wheel() -> Path:
    return built("*.whl")


@pytest.fixture(scope="module")
def sdist() -> Path:
    return built("*.tar.gz")


def contents(wheel) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_has_what_it_needs_and_nothing_else(wheel):
    names = set(contents(wheel))
    assert wheel.stat().st_size < 3_200_000  # with two models of up to 2 MB
    assert {f"openmm_les/models/les-demo{x}.les.pt" for x in ("", "-x")} <= names
    assert {"openmm_les/py.typed", "openmm_les_export/py.typed"} <= names
    assert any(re.search(r"dist-info/.*LICENSE$", name) for name in names)
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {
        "openmm_les",
        "openmm_les_export",
    }
    modules = {path.name for path in (ROOT / "openmm_les").glob("*.py")}
    assert modules == {Path(name).name for name in names if re.match(r"openmm_les/\w+\.py$", name)}


def test_extras_are_the_documented_ones(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {Path(n).parts[0] for n in archive.namelist() if n.endswith("/METADATA")}
        metadata = PathDistribution(zipfile.Path(archive, f"{info}/")).metadata
        assert sorted(metadata.get_all("Provides-Extra")) == sorted(EXTRAS)


def test_sdist_builds_the_same_wheel(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ".", folder=source)
    assert contents(next(tmp_path.glob("*.whl"))) == contents(wheel)


def test_sdist_has_every_file_of_the_repository(sdist):
    """Building, testing and reading take all of them."""
    tracked = run("git", "ls-files", folder=ROOT).split()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked) - names == set()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder of the commands of an environment that has the wheel, in a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    commands = folder / "venv" / "bin"
    run(commands / "python", "-m", "pip", "install", "--quiet", wheel, TORCH, folder=folder)
    return commands


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a molecule and nothing of the repository's code."""
    molecule = ROOT / "examples" / "alanine_dipeptide.pdb"
    (tmp_path / molecule.name).write_bytes(molecule.read_bytes())
    return tmp_path


def test_requirements_of_the_wheel_fit_together(installed, folder):
    run(installed / "python", "-m", "pip", "check", folder=folder)


def test_command_line_of_the_wheel(installed, folder, wheel):
    version = wheel.name.split("-")[1]
    command = installed / "openmm-les"
    assert run(command, "--version", folder=folder).split()[-1] == version
    assert "export" in run(command, "--help", folder=folder)
    assert "pythonforce" in run(command, "doctor", folder=folder)
    assert str(installed.parent / "lib") in run(command, "models", "list", folder=folder)


def test_md_with_the_model_of_the_wheel(installed, folder):
    (folder / "md.py").write_text(MD)
    assert -12600 < float(run(installed / "python", "md.py", folder=folder)) < -12200


def test_export_with_the_wheel(installed, folder):
    checkpoint = ROOT / "training" / "les_demo" / "les-demo.model"
    command = installed / "openmm-les"
    run(command, "export", checkpoint, "-o", "mine.les.pt", "--licence", "MIT", folder=folder)
    assert "H C N O" in run(command, "inspect", "mine.les.pt", folder=folder)


@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_resolves(wheel, extra, tmp_path):
    """From the metadata of the packages alone: nothing large is downloaded."""
    (tmp_path / "wanted.in").write_text(f"openmm-les[{extra}] @ {wheel.resolve().as_uri()}\n")
    command = [sys.executable, "-m", "uv", "pip", "compile", "--no-annotate", "wanted.in"]
    found = run(*command, folder=tmp_path).lower()
    runtimes = set(re.findall(r"^nvidia-cuda-runtime(?:-cu12)?==(\d+)", found, re.MULTILINE))
    plugins = set(re.findall(r"^openmm-(?:torch-)?cuda-(\d+)==", found, re.MULTILINE))
    expected = {"cuda12": "12", "cuda13": "13", "torchforce": "12"}.get(extra)
    if expected:  # OpenMM and torch agree about CUDA
        assert runtimes == plugins == {expected}
    else:
        assert not plugins


@pytest.mark.parametrize("group", GROUPS)
def test_dependency_group_resolves(group, tmp_path):
    wanted = f"{ROOT / 'pyproject.toml'}:{group}"
    command = [sys.executable, "-m", "uv", "pip", "compile", "--no-annotate", "--group", wanted]
    assert run(*command, folder=tmp_path)
