"""Replica exchange of alanine dipeptide, stopped, continued, extended, refused."""

import json
import shutil
import signal

import numpy as np
import pytest
import yaml
from openmm import XmlSerializer, app, unit
from openmmml import MLPotential
from support.mixed import context
from support.runs import PEPTIDE, TIP3P, Recorder

from openmm_les import InputError, OutputError, catalog
from openmm_les.cli import main
from openmm_les.evaluation.engines import decisions
from openmm_les.evaluation.engines.variant import Decision, Trial, Variant
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.repex import analysis, exchange
from openmm_les.repex.checkpoint import ExchangeCheckpoint
from openmm_les.repex.settings import read_settings, states_of

BASE = {
    "structure": str(PEPTIDE),
    "model": "les-demo",
    "steps": 60,
    "equilibration_steps": 10,
    "minimise_iterations": 10,
    "report_interval": 10,
    "seed": 3,
    "device": "cpu",
    "precision": "double",
}
REGION = {"ml_region": ["resname ALA"], "force_field": list(TIP3P)}
TEMPERATURES = [300, 320, 350]
GROWING = ("log.csv", "energy.csv", "state_0.xtc", "state_1.xtc", "state_2.xtc")


def written(path, base=None, **changes):
    given = {"base": BASE | (base or {}), "temperatures": TEMPERATURES} | changes
    path.write_text(yaml.safe_dump({k: v for k, v in given.items() if v is not None}))
    return path


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exchange")
    recorder = Recorder()
    exchange.run(written(folder / "settings.yaml"), folder / "out", callbacks=recorder)
    assert {phase for phase, _ in recorder.steps} == {"equilibration", "exchange"}
    assert not any("production" in message for message in recorder.messages)
    return folder / "out"


def assert_same(got, expected):
    for name in GROWING:
        assert (got / "replicas" / name).read_bytes() == (expected / "replicas" / name).read_bytes()
    assert ExchangeCheckpoint.read(got / "checkpoint.zip").replicas == (
        ExchangeCheckpoint.read(expected / "checkpoint.zip").replicas
    )


def test_energies_of_the_replicas(complete):
    """The last row of energies belongs to the last structures, over the kT of each state."""
    found = analysis.read(complete)
    assert found.states.shape == (6, 3)
    assert all(sorted(row) == [0, 1, 2] for row in found.states.tolist())
    checkpoint = ExchangeCheckpoint.read(complete / "checkpoint.zip")
    pdb = app.PDBFile(str(PEPTIDE))
    system = MLPotential("les-demo").createSystem(pdb.topology, precision="double")
    made = context(system, pdb.positions)
    for replica, text in enumerate(checkpoint.replicas):
        made.setState(XmlSerializer.deserialize(text.decode()))
        energy = made.getState(energy=True).getPotentialEnergy()
        for k, temperature in enumerate(TEMPERATURES):
            expected = energy / (unit.MOLAR_GAS_CONSTANT_R * temperature * unit.kelvin)
            assert found.energies[-1, replica, k] == pytest.approx(expected, abs=1e-6)


def test_a_stopped_exchange_ends_with_the_same_bytes(complete, tmp_path):
    """Also where files have grown after its last checkpoint, as in a process that was killed."""
    file = written(tmp_path / "settings.yaml")

    def stop(progress):
        if (progress.phase, progress.step) == ("exchange", 2):
            signal.raise_signal(signal.SIGINT)

    recorder = Recorder(stop)
    with pytest.raises(KeyboardInterrupt):
        exchange.run(file, tmp_path / "out", callbacks=recorder)
    assert recorder.messages[-1] == "stopped after iteration 2"
    for name in GROWING:
        with (tmp_path / "out" / "replicas" / name).open("ab") as stream:
            stream.write(b"3,30,")
    recorder = Recorder()
    exchange.run(file, tmp_path / "out", callbacks=recorder)
    assert "continuing after iteration 2 of 6" in recorder.messages
    assert_same(tmp_path / "out", complete)


def test_more_steps_and_a_report(complete, tmp_path, capsys):
    shutil.copytree(complete, tmp_path / "out")
    file = written(tmp_path / "settings.yaml", {"steps": 80})
    with pytest.raises(SystemExit) as stopped:
        main(["repex", "run", str(file), "-o", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert stopped.value.code == 0, captured.err
    lines = captured.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["temperature", "300", "320", "350"]
    assert lines[0].startswith("temperature [K]  potential energy [kJ/mol]")
    assert lines[4].startswith("3 replicas, 8 iterations, 0.04 ps each, ")
    page = (tmp_path / "out" / "exchange.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    before, now = (analysis.read(path) for path in (complete, tmp_path / "out"))
    np.testing.assert_array_equal(now.states[:6], before.states)


def test_the_engine_of_its_start_stays(complete, tmp_path, monkeypatch):
    """Whatever has been decided about it when the exchange continues."""
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    pdb = app.PDBFile(str(PEPTIDE))
    numbers = [atom.element.atomic_number for atom in pdb.topology.atoms()]
    positions = pdb.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    options = {"periodic": False, "positions": positions, "precision": "double"}
    system = SystemModel(catalog.open_model("les-demo"), numbers, **options)._system()
    few = Variant(few_kernels=True)
    for name in ("whole", "part"):
        decisions.keep(Decision(few, (Trial(few, 1.0),), system))
        steps = 60 if name == "whole" else 30
        settings = written(tmp_path / "settings.yaml", {"steps": steps})
        exchange.run(settings, tmp_path / name)
    decisions.forget()
    exchange.run(written(tmp_path / "settings.yaml"), tmp_path / "part")
    assert_same(tmp_path / "part", tmp_path / "whole")
    energies = [folder / "replicas" / "energy.csv" for folder in (complete, tmp_path / "whole")]
    assert energies[0].read_bytes() != energies[1].read_bytes()


def test_lambdas(tmp_path):
    """States share the ends: energies are linear in lambda, and give free energies.

    Also from a part, which is extended, with a neighbour list and a force field.
    """

    def run(steps, name):
        base = REGION | {"steps": steps, "report_interval": 2, "equilibration_steps": 0}
        file = written(tmp_path / "settings.yaml", base, temperatures=None, lambdas=[0, 0.5, 1])
        exchange.run(file, tmp_path / name)

    run(24, "out")
    run(12, "parts")
    run(24, "parts")
    assert_same(tmp_path / "parts", tmp_path / "out")
    found = analysis.read(tmp_path / "out")
    assert found.parameter == "lambda_interpolate"
    middle = found.energies[:, :, [0, 2]].mean(axis=2)
    np.testing.assert_allclose(found.energies[:, :, 1], middle, atol=1e-4)
    assert np.ptp(found.energies[:, 0, 2] - found.energies[:, 0, 0]) > 0.1
    assert np.isfinite(analysis.free_energies(found).difference)


def test_what_changed_is_refused(complete, tmp_path):
    shutil.copytree(complete, tmp_path / "out")

    def refuse(message, **changes):
        with pytest.raises(InputError, match=message):
            exchange.run(written(tmp_path / "settings.yaml", **changes), tmp_path / "out")

    refuse(
        r"temperature: this exchange was started with \[300.0, 320.0, 350.0\], got .* only steps",
        temperatures=[300, 330, 350],
    )
    refuse("precision: this run was started with double, got single", base={"precision": "single"})
    refuse(
        "equilibration_steps: this exchange was started with 10, got 30; only steps may change",
        base={"equilibration_steps": 30},
    )
    refuse(
        "steps: expected at least the 60 that this exchange has done, got 40", base={"steps": 40}
    )
    summary = tmp_path / "out" / "start" / "summary.json"
    assert json.loads(summary.read_bytes())["steps"] == 10
    begun = tmp_path / "begun"
    shutil.copytree(complete / "start", begun / "start")
    with pytest.raises(InputError, match="equilibration_steps: this exchange was started with 10"):
        exchange.run(written(tmp_path / "s.yaml", {"equilibration_steps": 20}), begun)
    checkpoint = tmp_path / "out" / "start" / "checkpoint.zip"
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(b"")
    refuse(f"is damaged .*; remove {tmp_path / 'out'}: it is then started again")
    checkpoint.write_bytes(good)
    checkpoint = tmp_path / "out" / "checkpoint.zip"
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"<State ", b"<Force "))
    refuse("checkpoint: .*checkpoint.zip is damaged")
    (tmp_path / "other" / "replicas").mkdir(parents=True)
    with pytest.raises(OutputError, match="other has replicas, which no exchange wrote there"):
        exchange.run(written(tmp_path / "settings.yaml"), tmp_path / "other")
    with pytest.raises(InputError, match="`openmm-les repex run` has done an iteration, got"):
        analysis.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temprature": [1]}, "temprature: unknown field; did you mean temperatures"),
        ({"steps": 5}, r"steps: unknown field \(a setting of the runs belongs below base\)"),
        ({"lambdas": [0, 1]}, "temperatures and lambdas: expected one of them, got both"),
        ({"temperatures": None}, "temperatures and lambdas: expected one of them, got neither"),
        ({"temperatures": [300, 300]}, "expected at least two, each higher than the last, got 300"),
        ({"temperatures": []}, "temperatures: expected at least two, .* than the last, got none"),
        ({"temperatures": None, "lambdas": []}, "lambdas: expected at least two, .* got none"),
        ({"temperatures": "hot"}, "temperatures: expected a list of numbers or null .* got 'hot'"),
        ({"base": {"temperature": 300}}, "base.temperature: leave it out; temperatures has those"),
        ({"base": {"response": "dipole"}}, "base.response: leave it out; an exchange writes"),
        ({"base": {"ensemble": "npt", "barostat_interval": 5}}, "expected NVT where temperature"),
        ({"base": {"lambda_interpolate": 1}}, "base.lambda_interpolate: leave it out; give a list"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    file = written(tmp_path / "settings.yaml", **changes)
    with pytest.raises(InputError, match=message):
        states_of(read_settings(file), file, tmp_path)
