"""A model is meant by a name or a path, with ``~`` or not, wherever users name one."""

import re
import shutil
from pathlib import Path

import ase.build
import ase.io
import openmm
import pytest
from openmm import app
from openmm_les_export import export, read_model
from openmm_les_export.atomic_energies import read_atomic_energies
from openmmml import MLPotential
from support.helpers import ROOT

from openmm_les import artifact, catalog
from openmm_les.analysis import formats
from openmm_les.ase import LESCalculator
from openmm_les.cli import main
from openmm_les.errors import ArtifactError, InputError, ModelFileError, OutputError
from openmm_les.files.writing import check_output
from openmm_les.plugin import observed
from openmm_les.simulation import config as configs

PEPTIDE = ROOT / "examples" / "alanine_dipeptide.pdb"
DEMO = catalog.artifact_path("les-demo")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory with a model."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    shutil.copy(DEMO, tmp_path / "home" / "my.les.pt")
    return tmp_path / "home"


def of_calculator(model):
    return LESCalculator(model).artifact


def of_potential(model):
    return artifact.load(MLPotential("les", modelPath=model)._impl.modelPath)


def of_reporter(model):
    topology = app.PDBFile(str(PEPTIDE)).topology
    return observed.in_topology(model, topology, openmm.System(), None, {}).artifact


def of_run(model):
    """A run opens its model before anything else; the structure is not there."""
    config = configs.load(None, {"model": str(model), "structure": "none.pdb", "steps": "1000"})
    return catalog.open_model(config.model)


WAYS = [catalog.open_model, of_calculator, of_potential, of_reporter, of_run]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.usefixtures("home")
def test_names_and_homes(way):
    expected = artifact.file_hash(DEMO)
    for model in ("les-demo", Path("les-demo"), "~/my.les.pt", Path("~/my.les.pt"), DEMO):
        assert way(model).sha256 == expected


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_unknown_names_get_one_message(way):
    with pytest.raises(ArtifactError) as raised:
        way("les-dmo")
    text = str(raised.value)
    assert (
        "les-dmo does not exist; expected a name (maceles-off-small, maceles-off, les-demo" in text
    )
    assert "openmm-les models list" in text
    assert text.endswith("; did you mean les-demo?")


def test_a_home_of_nobody_is_a_file_that_does_not_exist():
    with pytest.raises(ArtifactError, match="~nobody-here/x does not exist"):
        artifact.load("~nobody-here/x")


def command(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    captured = capsys.readouterr()
    assert stopped.value.code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("model", ["les-demo", "~/my.les.pt"])
def test_commands(home, capsys, model):
    """As where the shell leaves ``~`` alone: ``--output=~/x`` and programs."""
    assert "H C N O" in command(capsys, "inspect", model)
    ready = ase.build.molecule("H2O")
    ready.calc = LESCalculator(model)
    ready.get_potential_energy()
    ase.io.write(home / "water.xyz", ready)
    out = command(capsys, "validate", model, "~/water.xyz", "--output=~/report")
    assert "1 structures" in out
    assert (home / "report" / "frames.csv").exists()


def test_export_reads_and_writes_in_a_home(home):
    shutil.copy(ROOT / "training" / "les_demo" / "les-demo.model", home / "my.model")
    assert read_model("~/my.model").family == "mace"
    with pytest.raises(ModelFileError, match=re.escape(str(home / "none.model"))):
        read_model("~/none.model")
    with pytest.raises(OutputError, match="is the file that the model reads"):
        export("~/my.model", home / "my.model", overwrite=True)
    (home / "energies.yaml").write_text("H: -13.6")
    assert read_atomic_energies("~/energies.yaml") == {1: -13.6}


def test_texts_that_no_path_can_be():
    """Energies of many elements are longer than a name of a file, and no user has this name."""
    energies = {z: -1000.125 * z for z in range(1, 31)}
    text = ",".join(f"{z}:{energy}" for z, energy in energies.items())
    assert len(text) > 255
    assert read_atomic_energies(text) == energies
    with pytest.raises(ArtifactError, match="does not exist"):
        catalog.find(text)
    with pytest.raises(OutputError, match=r"cannot write .*too long"):
        check_output(text, inputs={})
    nobody = "~no-such-user/water.pdb"
    assert nobody in str(configs.RunConfig(structure=nobody, model="les-demo").structure)
    with pytest.raises(InputError, match=r"cannot read .*no-such-user"):
        formats.read("~no-such-user/water.csv")
