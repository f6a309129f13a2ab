"""Free energies of alanine dipeptide from the force field to ML/MM, in water and in vacuum."""

import csv
import shutil
import signal

import numpy as np
import pytest
import yaml
from support.mixed import peptide_in_water
from support.runs import IN_WATER, PEPTIDE, Recorder, write

from openmm_les import InputError, free_energy
from openmm_les import simulation as md
from openmm_les.campaign.directory import CampaignDirectory
from openmm_les.campaign.state import read_table, state_of
from openmm_les.cli import main
from openmm_les.free_energy.settings import planned_windows, read_settings

pytest.importorskip("pymbar")
pytest.importorskip("matplotlib")

BASE = {
    "model": "les-demo",
    "steps": 48,
    "equilibration_steps": 4,
    "minimise_iterations": 10,
    "report_interval": 4,
    "device": "cpu",
    **{name: list(v) if isinstance(v, tuple) else v for name, v in IN_WATER.items()},
}


def written(path, structures, **changes):
    """Settings in a file, of one ligand."""
    legs = {leg: {"structure": str(structure)} for leg, structure in structures.items()}
    given = {"base": BASE, "legs": [*legs], "windows": 2, "seed": 3, "ligands": {"ala": legs}}
    path.write_text(yaml.safe_dump(given | changes, sort_keys=False))
    return path


def prepared(file, directory):
    return CampaignDirectory(directory).prepare_runs(planned_windows(read_settings(file), file), 3)


def command(capsys, *arguments):
    """Exit status, standard output and standard error of `openmm-les free-energy`."""
    with pytest.raises(SystemExit) as stopped:
        main(["free-energy", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def calculation(tmp_path_factory):
    """A finished calculation in water and in vacuum, whose windows ran one after another."""
    folder = tmp_path_factory.mktemp("calculation")
    water = write(folder / "water.pdb", peptide_in_water("tip3p", 1.6))
    file = written(folder / "settings.yaml", {"water": water, "vacuum": PEPTIDE})
    for planned in prepared(file, folder / "out"):
        md.run(planned.config, resume=True)
    return folder / "out"


def test_a_correction(calculation, capsys):
    (ligand,) = free_energy.analyse(calculation)
    water, vacuum = (leg.estimate for leg in ligand.legs)
    assert ligand.correction == water.difference - vacuum.difference
    assert ligand.error == pytest.approx(np.hypot(water.error, vacuum.error))
    for estimate in (water, vacuum):  # of 20 samples, but other estimators agree
        assert estimate.by_bar[-1] == pytest.approx(estimate.difference, abs=1e-3)
        assert estimate.by_integration[-1] == pytest.approx(estimate.difference, abs=60.0)
    assert ligand.verdict == "unreliable"
    status, out, err = command(capsys, "analyse", calculation)
    assert status == 0
    assert out.startswith("ala: water ")
    assert f"; difference {ligand.correction:.2f} +- " in out
    assert "  vacuum: fewer than 50 independent samples in some windows (" in out
    names = ("free-energies.csv", "windows.csv", "free-energies.html")
    assert err.splitlines() == [f"wrote {calculation / name}" for name in names]
    with (calculation / "free-energies.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["water - vacuum [kJ/mol]"]) == ligand.correction
    least = min(leg.overlap.diagonal(side).min() for leg in (water, vacuum) for side in (-1, 1))
    assert float(row["least overlap of neighbours"]) == pytest.approx(least, abs=1e-4)
    assert f"least overlap {least:.2g} (unreliable)" in out
    page = (calculation / "free-energies.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert f"{ligand.correction:.2f} ± {ligand.error:.2f}</td>" in page


def test_a_ligand_that_was_taken_out(calculation, tmp_path):
    """Its windows are not lost in silence."""
    shutil.copytree(calculation, tmp_path / "out")
    before = (tmp_path / "out" / "runs.csv").read_bytes()
    legs = {leg: {"structure": str(PEPTIDE)} for leg in ("water", "vacuum")}
    file = written(tmp_path / "settings.yaml", dict.fromkeys(legs, PEPTIDE), ligands={"b": legs})
    message = "runs that have begun are not in the plan any more: ala/water/lambda-0, ala/water"
    with pytest.raises(InputError, match=message):
        prepared(file, tmp_path / "out")
    assert (tmp_path / "out" / "runs.csv").read_bytes() == before


def test_windows_that_have_nothing_yet(calculation, tmp_path):
    shutil.copytree(calculation, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "runs" / "ala" / "vacuum" / "lambda-1")
    begun = tmp_path / "out" / "runs" / "ala" / "water" / "lambda-0"
    (begun / "summary.json").unlink()
    (begun / "interpolation.csv").write_text("")
    (ligand,) = free_energy.analyse(tmp_path / "out")
    for leg, value in zip(ligand.legs, (0, 1), strict=True):
        assert leg.estimate is None
        text = f"too few samples yet at lambda {value}: run the same command again"
        assert leg.verdict.problems == (text,)
    assert np.isnan(ligand.correction)


def test_other_directories_are_refused(calculation, tmp_path):
    with pytest.raises(
        InputError, match="free energy: expected a directory that `openmm-les free-"
    ):
        free_energy.analyse(tmp_path)
    shutil.copytree(calculation, tmp_path / "out")
    table = tmp_path / "out" / "runs.csv"
    table.write_text(table.read_text().replace("ligand,leg,lambda_interpolate", "a,b,c"))
    with pytest.raises(InputError, match=r"free-energy run` made, got .*out$"):
        free_energy.analyse(tmp_path / "out")


def test_a_stopped_calculation_continues_and_adds_windows(calculation, tmp_path, capsys):
    """What was stopped ends with the same bytes, and the new windows make neighbours overlap."""
    pytest.importorskip("distributed")
    expected = calculation / "runs" / "ala" / "vacuum"
    file = written(tmp_path / "settings.yaml", {"vacuum": PEPTIDE})
    first, last = prepared(file, tmp_path / "out")
    shutil.copytree(expected / "lambda-1", last.config.output, dirs_exist_ok=True)

    def stop(progress):
        if (progress.phase, progress.step) == ("production", 20):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        md.run(first.config, resume=True, callbacks=Recorder(stop))
    assert state_of(read_table(tmp_path / "out")[0]).name == "stopped"
    arguments = ("run", file, "-o", tmp_path / "out", "--add-windows", "--workers", "2")
    status, out, err = command(capsys, *arguments)
    assert status == 0, err
    assert "ala, vacuum: adding lambda 0." in err
    for name in ("interpolation.csv", "log.csv", "trajectory.dcd"):
        assert (first.config.output / name).read_bytes() == (
            expected / "lambda-0" / name
        ).read_bytes()
    assert out.startswith("ala: vacuum ")
    assert "overlap of" not in out
    entries = read_table(tmp_path / "out")
    assert len(entries) > 2
    assert {state_of(entry).name for entry in entries} == {"finished"}
    # They stay, without being asked for.
    status, _, err = command(capsys, *arguments[:4])
    assert status == 0
    assert err.splitlines()[0].startswith(f"{len(entries)} runs in ")
