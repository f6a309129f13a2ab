"""Results of campaigns whose files are written here: damaged ones, averages, errors of drifts."""

import csv
import json
import math

import numpy as np
import pytest
from support.campaigns import prepare, write_plan

from openmm_les.analysis.means import inefficiency_of
from openmm_les.campaign.gather import gather
from openmm_les.campaign.state import read_table, state_of
from openmm_les.cli import main
from openmm_les.errors import InputError

pytest.importorskip("pymbar")
pytest.importorskip("matplotlib")

LOG = (
    '#"Step","Time (ps)","Potential Energy (kJ/mole)","Total Energy (kJ/mole)","Temperature (K)"\n'
)
RESPONSE = '#"Step","Time (ps)","Dipole X (e A)","Dipole Y (e A)","Dipole Z (e A)"\n'
FIRST, SECOND, THIRD, FOURTH = (f"temperature-{t}_repeat-{n}" for t in (280, 300) for n in (1, 2))


def rows(*values):
    return "".join(f"{10 * i},{0.005 * i},{v},{v},{v}\n" for i, v in enumerate(values, 1))


@pytest.fixture
def directory(tmp_path):
    """Four finished runs, at two temperatures."""
    plan = write_plan(tmp_path / "plan.yaml", vary={"temperature": [280, 300]}, repeats=2)
    prepare(plan, tmp_path / "out")
    for number, entry in enumerate(read_table(tmp_path / "out")):
        (entry.directory / "log.csv").write_text(LOG + rows(*np.arange(8.0) + number))
        (entry.directory / "response.csv").write_text(RESPONSE + rows(3.0, 3.0, 3.0))
        finish(entry)
    return tmp_path / "out"


def finish(entry, ensemble="NVT"):
    summary = {"steps": 80, "ns_per_day": 1.0, "atoms": 10, "config": {"ensemble": ensemble}}
    (entry.directory / "summary.json").write_text(json.dumps(summary))


def results(directory):
    gather(directory)
    with (directory / "results.csv").open() as stream:
        return {row["run"]: row for row in csv.DictReader(stream)}


def test_damaged_files_cost_their_quantities_alone(directory, capsys):
    runs = directory / "runs"
    (runs / FIRST / "log.csv").write_text(LOG + rows(1.0, 2.0) + "30,0.015\n" + rows(4.0))
    (runs / SECOND / "log.csv").write_text(LOG + rows(1.0, math.nan, 3.0))
    (runs / THIRD / "response.csv").write_text(RESPONSE + rows(1.0) + "garbage\n" + rows(2.0))
    with pytest.raises(SystemExit) as stopped:
        main(["campaign", "gather", str(directory)])
    assert stopped.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("quantities of 3 runs, whose files are damaged, left out: ")
    for name, text in (
        (FIRST, "is not the log of a run: expected 5 numbers in each row"),
        (SECOND, "expected finite numbers in Potential Energy (kJ/mole), got NaN"),
        (THIRD, "response.csv: expected a table of numbers below its header"),
    ):
        assert f"{name}: " in last
        assert text in last
    found = results(directory)
    assert [bool(row["temperature [K]"]) for row in found.values()] == [False, False, True, True]
    assert [bool(row["dipole [e A]"]) for row in found.values()] == [True, True, False, True]
    page = (directory / "index.html").read_text()
    assert "<th>left out, since files are damaged</th>" in page


def test_the_page_leads_to_the_reports_of_runs(directory):
    (directory / "runs" / SECOND / "report.html").write_text("<!DOCTYPE html>")
    gather(directory)
    page = (directory / "index.html").read_text()
    assert f'<td><a href="runs/{SECOND}/report.html">{SECOND}</a></td>' in page
    assert f"<td>{FIRST}</td>" in page


def test_a_row_that_is_not_written_yet_is_no_damage(directory):
    """Of runs that were stopped, or failed."""
    entry = read_table(directory)[0]
    (entry.directory / "summary.json").unlink()
    for name, text in (("log.csv", LOG + rows(5.0, 5.0)), ("response.csv", RESPONSE + rows(2.0))):
        (entry.directory / name).write_text(text + "30,0.0")
    assert state_of(entry).name == "stopped"
    row = results(directory)[FIRST]
    assert not gather(directory).problems
    assert float(row["temperature [K]"]) == 5.0
    assert float(row["dipole [e A]"]) == pytest.approx(2.0 * math.sqrt(3.0))


@pytest.mark.parametrize("keep", [0, 1])
def test_an_empty_table(directory, keep):
    table = directory / "runs.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:keep]))
    with pytest.raises(InputError, match=r"runs\.csv is damaged \(it has no runs\); remove it: "):
        gather(directory)
    table.unlink()
    prepare(directory.parent / "plan.yaml", directory)
    assert len(read_table(directory)) == 4


def test_averages_count_runs_with_results(directory):
    for name in (FIRST, FOURTH):
        (directory / "runs" / name / "log.csv").unlink()
    (directory / "runs" / FIRST / "response.csv").unlink()
    gather(directory)
    page = (directory / "index.html").read_text()
    assert "runs with results</th>" in page
    at_280, at_300 = (
        page.split(f"<tr><td>temperature {t}</td>")[1].split("</tr>")[0] for t in (280, 300)
    )
    assert at_280.startswith('<td class="number">1</td>')
    assert at_300.startswith('<td class="number">2</td>')
    assert "(of 1)" in at_300


def test_the_error_of_a_drift_knows_that_energies_are_correlated(directory):
    entry = read_table(directory)[0]
    rng = np.random.default_rng(1)
    noise = rng.normal(size=400)
    for i in range(1, len(noise)):  # a memory of some ten rows
        noise[i] += 0.9 * noise[i - 1]
    (entry.directory / "log.csv").write_text(LOG + rows(*noise))
    finish(entry, "NVE")
    row = results(directory)[FIRST]
    inefficiency = float(row["energy drift inefficiency"])
    assert 8.0 < inefficiency < 50.0
    error = float(row["energy drift error [meV/atom/ps]"])
    time = 0.005 * np.arange(1, 401)
    factor = 1e3 / 96.48533212331 / 10
    _, covariance = np.polyfit(time, factor * noise, 1, cov=True)  # as if they were not
    assert error == pytest.approx(math.sqrt(inefficiency * covariance[0, 0]), rel=1e-3)


def test_inefficiency():
    assert inefficiency_of(np.ones(10)) == 1.0
    assert inefficiency_of(np.repeat(np.random.default_rng(0).normal(size=300), 5)) > 3.0


def test_pictures_fit_small_screens(directory):
    gather(directory)
    page = (directory / "index.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert "img { max-width: 100%;" in page
