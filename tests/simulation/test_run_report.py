"""The page about a run: what it says, and that nothing else depends on it."""

import base64
import os
import re
import shutil
import signal
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from support.runs import TIP3P, Recorder, config

from openmm_les import SimulationError
from openmm_les import simulation as md
from openmm_les.analysis.formats import CSVFile, read
from openmm_les.analysis.means import block_error, with_error
from openmm_les.files.writing import write_atomically
from openmm_les.simulation import output
from openmm_les.simulation.report import page
from openmm_les.simulation.summary import Summary, read_log

SHORT = {"report": "on", "steps": 80, "equilibration_steps": 20, "minimise_iterations": 5}


class Texts(HTMLParser):
    """The texts of a page, and its addresses and alternatives of pictures."""

    def __init__(self, path) -> None:
        super().__init__()
        self.words, self.addresses, self.alternatives, self.tags = [], [], [], set()
        self.feed(path.read_text())
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.addresses.append(value)
            if name == "alt":
                self.alternatives.append(value)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in a folder whose name looks like markup, stopped once and continued."""
    folder = tmp_path_factory.mktemp("report") / "a <b> & c"
    folder.mkdir()

    def stop(progress):
        if (progress.phase, progress.step) == ("production", 40):
            os.kill(os.getpid(), signal.SIGINT)

    changes = SHORT | {"response": ("charges",), "response_interval": 20, "report_interval": 10}
    settings = config(folder, **changes, time_step=1.5, trajectory_interval=None)
    with pytest.raises(KeyboardInterrupt):
        md.run(settings, callbacks=Recorder(stop))
    stopped = Texts(folder / "run" / "report.html")
    md.run(settings, resume=True)
    return folder / "run", stopped


def test_a_finished_run(finished):
    folder, _ = finished
    told, log = Texts(folder / "report.html"), read_log(folder / "log.csv")
    assert len(log["Step"]) == 8
    temperature = np.mean(log["Temperature (K)"])
    assert f"temperature [K] {temperature:.6g} {np.std(log['Temperature (K)'], ddof=1):.4g}" in (
        told.text
    )
    # 22 atoms, three coordinates each, less the motion of the centre of mass.
    freedom = 63
    expected = 300.0 * np.sqrt(2.0 / freedom)
    assert f"standard deviation of {expected:.4g} K" in told.text
    assert f"with N = {freedom} degrees" in told.text
    summary = Summary.read(folder / "summary.json")
    assert f"{summary.ns_per_day:.3g} ns/day" in told.text
    assert summary.files["report.html"] == str(folder / "report.html")
    for words in ("Finished on ", "C6 H12 N2 O2", "les-demo", "MIT", "GFN2-xTB", "NeurIPS 35"):
        assert words in told.text
    assert "time_step 1.5 (default: 0.5)" in told.text
    assert "\ntime_step: 1.5\n" in (folder / "report.html").read_text()
    assert f"openmm-les run '{folder}' --resume --steps 160" in told.text


def test_the_warnings_of_all_processes(finished):
    """The second one finds a structure that is minimised and does not look at the time step."""
    folder, stopped = finished
    for told in (stopped, Texts(folder / "report.html")):
        assert told.text.count("time_step: 1.5 fs is long where bonds to hydrogen are free") == 1


def test_a_run_that_was_stopped(finished):
    _, stopped = finished
    assert "Stopped on request on " in stopped.text
    assert "the last checkpoint has step 40 of 80 of production" in stopped.text
    assert "Of 4 rows of log.csv" in stopped.text


def test_charges_are_those_of_the_response(finished):
    folder, _ = finished
    series = read(folder / "response.csv")
    charges = series.get("charges")
    oxygen = [atom for atom, line in enumerate(_atoms(folder)) if line[76:78].strip() == "O"]
    told = Texts(folder / "report.html").text
    assert f"O 2 {charges[:, oxygen].mean():.4f} {charges[:, oxygen].min():.4f}" in told
    assert f"in {len(charges)} rows of response.csv" in told


def _atoms(folder):
    lines = (folder / "minimised.pdb").read_text().splitlines()
    return [line for line in lines if line.startswith(("ATOM", "HETATM"))]


def test_the_page_needs_no_other_file_and_holds_no_markup_of_others(finished):
    folder, _ = finished
    told = Texts(folder / "report.html")
    assert "b" not in told.tags
    assert "script" not in told.tags
    pictures = [address for address in told.addresses if address.startswith("data:")]
    assert len(pictures) == len(told.alternatives) == 2
    assert all(
        re.search(r"production from \S+ to \S+, between", text) for text in told.alternatives
    )
    for picture in pictures:
        assert b"</svg>" in base64.b64decode(picture.removeprefix("data:image/svg+xml;base64,"))
    others = set(told.addresses) - set(pictures)
    assert others == {path.name for path in folder.glob("[!.]*")} - {"report.html"}


def test_a_page_that_is_gone_is_made_again(finished):
    folder, _ = finished
    (folder / "report.html").unlink()
    md.run(md.load(folder), resume=True)
    assert "Finished on " in Texts(folder / "report.html").text


def test_without_matplotlib_there_are_tables(finished, tmp_path, monkeypatch):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "report.html").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    md.run(md.load(folder), resume=True)
    told = Texts(folder / "report.html")
    assert not told.alternatives
    assert "Left out: pictures need matplotlib: pip install" in told.text
    assert "temperature [K] " in told.text


def test_damaged_files_cost_their_results_alone(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "report.html").unlink()
    (folder / "response.csv").write_text("")
    log = folder / "log.csv"
    temperature = f",{read_log(log)['Temperature (K)'][3]!r}"
    assert log.read_text().count(temperature) == 1
    log.write_text(log.read_text().replace(temperature, ",nan"))
    md.run(md.load(folder), resume=True)
    told = Texts(folder / "report.html").text
    assert "Finished on " in told
    assert "temperature [K] nan nan nan nan" in told
    assert "potential energy [kJ/mol] -" in told
    assert "Left out: " in told
    assert "What to cite" in told


def test_a_page_that_is_asked_for_later(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / "report.html").unlink()
    summary = folder / "summary.json"
    text = summary.read_text().replace("report.html", "log.csv")
    summary.write_text(text)  # as of a run without a page
    settings = md.load(folder)
    md.run(settings.model_copy(update={"report": "off"}), resume=True)
    assert not (folder / "report.html").exists()
    md.run(settings, resume=True)
    assert "Finished on " in Texts(folder / "report.html").text


def test_a_run_that_broke(tmp_path):
    with pytest.raises(SimulationError) as caught:
        md.run(config(tmp_path, **SHORT | {"time_step": 6.0, "equilibration_steps": 0}))
    told = Texts(tmp_path / "run" / "report.html").text
    assert "Failed on " in told
    assert " ".join(str(caught.value).split()) in told
    assert "--resume" in told


def test_an_ml_region(tmp_path):
    """One cut bond, in vacuum; the atom beyond it is none of the region."""
    region = {"ml_region": ("resname ACE", "resname ALA"), "force_field": TIP3P}
    response = {"response": ("charges",), "response_interval": 10}
    one = {"steps": 20, "equilibration_steps": 0}
    md.run(config(tmp_path, **SHORT | one | region | response))
    md.run(config(tmp_path, **SHORT | one | region | response | {"steps": 40}), resume=True)
    told = Texts(tmp_path / "run" / "report.html").text
    assert "described by the model 16 atoms of ACE A:1, ALA A:2" in told
    assert "link atoms 1, for C of ALA A:2 to N of NME A:3" in told
    assert "embedding mechanical" in told
    assert told.count("is polar: hydrogen is a poor cap for it") == 1
    assert "Of 2 rows of log.csv" in told
    counts = dict(re.findall(r" ([CHNO]) (\d+) -?0\.\d{4} ", told))
    assert counts == {"C": "5", "H": "8", "N": "1", "O": "2"}


def test_without_a_page(tmp_path):
    md.run(config(tmp_path, **SHORT | {"report": False, "steps": 20, "equilibration_steps": 0}))
    assert not (tmp_path / "run" / output.REPORT).exists()
    assert output.REPORT not in Summary.read(tmp_path / "run" / "summary.json").files


def test_a_page_that_cannot_be_written_costs_no_results(tmp_path, monkeypatch, caplog):
    def full(path, content, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page, "write_atomically", full)
    md.run(config(tmp_path, **SHORT | {"steps": 20, "equilibration_steps": 0}))
    summary = tmp_path / "run" / "summary.json"
    assert output.REPORT not in Summary.read(summary).files
    assert "report.html was not written: [Errno 28] No space left on device" in caplog.text
    monkeypatch.undo()
    result = md.run(md.load(tmp_path / "run"), resume=True)
    assert result.files[output.REPORT] == str(tmp_path / "run" / "report.html")
    assert Summary.read(summary) == result


def test_a_run_of_a_campaign_leaves_its_steps_to_the_plan(tmp_path):
    """More steps, or other ones, would have the campaign refuse the run."""
    (tmp_path / "campaign.json").write_text("{}\n")
    steps = {"steps": 20, "equilibration_steps": 0}
    output_of = {"output": tmp_path / "runs" / "temperature-300"}
    settings = config(tmp_path, **SHORT | steps).model_copy(update=output_of)
    md.run(settings)
    told = Texts(settings.output / "report.html").text
    assert "This run belongs to a campaign" in told
    assert "For more steps change that" in told
    assert "--steps" not in told
    with pytest.raises(SimulationError):
        md.run(settings.model_copy(update={"time_step": 6.0}), overwrite=True)
    told = Texts(settings.output / "report.html").text
    assert "as soon as the reason is removed; other settings need a new run." in told


def test_the_error_of_correlated_values():
    """That of an autoregressive series is known: sigma sqrt((1 + a) / (1 - a) / n)."""
    generator, a, number = np.random.default_rng(3), 0.9, 100_000
    values = np.zeros(number)
    noise = generator.normal(size=number) * np.sqrt(1.0 - a * a)
    for i in range(1, number):
        values[i] = a * values[i - 1] + noise[i]
    # The error of an error from ten blocks is 1 / sqrt(2 * 9), a quarter.
    assert block_error(values) == pytest.approx(np.sqrt((1 + a) / (1 - a) / number), rel=0.6)
    assert np.isnan(block_error(values[:19]))
    assert np.isfinite(block_error(values[:20]))


def test_means_as_texts():
    assert with_error(1.23456, 0.0123) == "1.235 ± 0.012"
    assert with_error(1.23456, np.nan) == "1.23456"


@pytest.mark.parametrize("rows", [3, 1000])
def test_some_rows_of_a_long_file(tmp_path, rows):
    path = tmp_path / "response.csv"
    table = np.arange(1, 1 + rows)
    lines = "".join(f"{i},{0.5 * i},{1.0 / i:.{1 + i % 7}f}\n" for i in table)
    comment = '# {"charge_sign": "physical", "units": {}}\n'
    write_atomically(
        path, ('#"Step","Time (ps)","LES Energy (eV)"\n' + comment + lines + "9,9").encode()
    )
    got = CSVFile(path).sample(50)
    assert got.steps is not None
    if rows == 3:
        assert list(got.steps) == [1, 2, 3]
    assert rows == 3 or 40 <= len(got.steps) <= 50
    assert len(set(got.steps)) == len(got.steps)
    assert got.steps[0] == 1
    assert rows - got.steps[-1] <= rows / 40
    assert np.array_equal(got.time, 0.5 * got.steps)
    assert got.header.charge_sign == "physical"
