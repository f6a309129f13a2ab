"""Windows whose samples are written here: too few, damaged, and what is said of them."""

import json
import shutil

import numpy as np
import pytest
import yaml
from support.runs import PEPTIDE

from openmm_les import free_energy
from openmm_les.campaign.directory import CampaignDirectory
from openmm_les.campaign.state import read_table, write_failure
from openmm_les.free_energy.settings import planned_windows, read_settings
from openmm_les.free_energy.workflow import _windows_in
from openmm_les.simulation.end_energies import _HEADER

pytest.importorskip("pymbar")


@pytest.fixture
def prepared(tmp_path):
    """Two legs of two windows, with 60 samples each, finished."""
    legs = {name: {"structure": str(PEPTIDE)} for name in ("water", "vacuum")}
    base = {"model": "les-demo", "steps": 600, "report_interval": 10, "equilibration_steps": 0}
    base |= {"ml_region": ["resname ALA"], "force_field": ["amber14-all.xml"]}
    given = {"base": base, "legs": [*legs], "windows": 2, "seed": 3, "ligands": {"ala": legs}}
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(given))
    CampaignDirectory(tmp_path / "out").prepare_runs(planned_windows(read_settings(file), file), 3)
    for entry in read_table(tmp_path / "out"):
        write(entry, 60)
        text = json.dumps({"steps": 600, "ns_per_day": 1.0})
        (entry.directory / "summary.json").write_text(text)
    return tmp_path / "out", {entry.name: entry for entry in read_table(tmp_path / "out")}


def write(entry, number):
    rng = np.random.default_rng(entry.seed)
    rows = [f"{10 * i},0.0,{rng.normal()}\n" for i in range(1, number + 1)]
    (entry.directory / "interpolation.csv").write_text(_HEADER + "".join(rows))


def problems(directory):
    """Of the legs in water and in vacuum."""
    (ligand,) = free_energy.analyse(directory)
    for leg in ligand.legs:
        assert (leg.estimate is None) == (leg.name == "water")
    assert ligand.verdict == "unreliable"
    return ligand.legs[0].verdict.problems


def test_a_finished_window_gets_no_more_samples(prepared):
    """To run the same command again would not help."""
    directory, entries = prepared
    write(entries["ala/water/lambda-1"], 1)
    assert problems(directory) == (
        "expected at least 2 samples of each window, got 1 at lambda 1 after all steps: raise "
        "steps to at least 50 times report_interval",
    )


def test_windows_that_go_on_and_that_failed(prepared):
    directory, entries = prepared
    for entry in (entries["ala/water/lambda-0"], entries["ala/water/lambda-1"]):
        (entry.directory / "summary.json").unlink()
        write(entry, 1)
    write_failure(entries["ala/water/lambda-1"].directory, "unstable")
    assert problems(directory) == (
        "windows have failed at lambda 1: unstable",
        "too few samples yet at lambda 0: run the same command again",
    )


def test_windows_are_those_that_have_a_directory(prepared):
    """So that one can be removed for good, and a lost table costs none that was added."""
    directory, entries = prepared
    shutil.rmtree(entries["ala/water/lambda-1"].directory)
    (entries["ala/vacuum/lambda-1"].directory.parent / "lambda-0.25").mkdir()
    (entries["ala/vacuum/lambda-1"].directory.parent / "lambda-of-a-user").mkdir()
    expected = {("ala", "water"): {0.0}, ("ala", "vacuum"): {0.0, 0.25, 1.0}}
    assert {where: {*values} for where, values in _windows_in(directory).items()} == expected
    (directory / "runs.csv").unlink()
    assert {where: {*values} for where, values in _windows_in(directory).items()} == expected


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ("10,nan,0.0\n", "expected finite energies, got NaN or infinity"),
        ("10,0.1\n", "expected 3 numbers in each row"),
    ],
)
def test_a_damaged_window_costs_its_leg_alone(prepared, damage, text):
    directory, entries = prepared
    path = entries["ala/water/lambda-1"].directory / "interpolation.csv"
    path.write_text(path.read_text() + damage)
    (problem,) = problems(directory)
    assert problem == f"free energy: {path} has no energies of a window: {text}"
