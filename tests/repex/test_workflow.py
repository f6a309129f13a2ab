"""Exchanges side by side: plans, what is written, what may change. Engine and cluster have tests
of their own."""

import signal

import pytest
import yaml
from support.runs import PEPTIDE, ROOT, Recorder

from openmm_les import InputError
from openmm_les.campaign import runner
from openmm_les.campaign.directory import CampaignDirectory
from openmm_les.campaign.plan import command_of
from openmm_les.campaign.state import read_table, state_of
from openmm_les.repex import exchange
from openmm_les.repex.workflow import ExchangeWork, planned_exchanges, read_plan

BASE = {
    "structure": str(PEPTIDE),
    "model": "les-demo",
    "steps": 30,
    "equilibration_steps": 10,
    "minimise_iterations": 5,
    "report_interval": 10,
    "device": "cpu",
}


def written(path, base=None, **changes):
    given = {"command": "repex", "base": BASE | (base or {}), "temperatures": [300, 320]}
    given |= {"vary": {"friction": [1.0, 2.0]}, "seed": 3} | changes
    path.write_text(yaml.safe_dump({k: v for k, v in given.items() if v is not None}))
    return path


def prepare(file, directory):
    plan = read_plan(file)
    work = ExchangeWork(plan, file)
    CampaignDirectory(directory, work).prepare_runs(
        lambda seed: planned_exchanges(plan, seed, file), plan.seed
    )
    return work, read_table(directory)


def states(entries):
    return [(state.name, state.steps) for state in map(state_of, entries)]


def test_the_plan_in_the_documents():
    plan = ROOT / "examples" / "exchanges.yaml"
    page = (ROOT / "docs" / "howto" / "replica-exchange.md").read_text()
    assert f"```yaml\n{plan.read_text()}```" in page
    assert len(planned_exchanges(read_plan(plan), 1, plan)) == 2


def test_exchanges_of_a_campaign(tmp_path):
    """Each begins, stops, continues and grows by the command of its task."""
    file = written(tmp_path / "plan.yaml")
    work, entries = prepare(file, tmp_path / "out")
    assert command_of(file) == "repex"
    assert [entry.name for entry in entries] == ["friction-1_repeat-1", "friction-2_repeat-1"]
    assert states(entries) == [("waiting", 0)] * 2
    first = entries[0].directory
    command = work.command(first)
    assert command == ("repex", "run", str(first / "exchange.yaml"), "-o", str(first))

    def stop(progress):
        if (progress.phase, progress.step) == ("exchange", 1):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        exchange.run(command[2], first, callbacks=Recorder(stop))
    assert states(entries)[0] == ("stopped", 20)
    exchange.run(command[2], first)
    assert states(entries) == [("finished", 40), ("waiting", 0)]
    # The seed of a single exchange decides all, so that it is the same one.
    settings = yaml.safe_load((first / "exchange.yaml").read_text())
    assert settings["base"]["seed"] == entries[0].seed
    _, entries = prepare(written(file, {"steps": 40}), tmp_path / "out")
    assert states(entries) == [("stopped", 40), ("waiting", 0)]
    for changes, message in (
        ({"temperatures": [300, 330]}, r"temperature: this exchange was started with \[300"),
        ({"base": {"steps": 20}}, "steps: expected at least the 30 that this exchange has done"),
        ({"base": {"pressure": 2.0}}, r"pressure: this run was started with 1\.0, got 2\.0"),
        ({"vary": {"friction": [2.0]}}, "runs that have begun are not in the plan any more: fr"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(written(file, **changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperatures": None}, "temperatures and lambdas: expected one of them, got neither"),
        ({"vary": {"temperature": [300]}}, r"vary\.temperature: leave it out; temperatures has"),
        ({"zip": {"response": ["dipole"]}}, r"zip\.response: leave it out; an exchange writes"),
        ({"base": {"ensemble": "NPT", "barostat_interval": 5}}, "expected NVT where temperature"),
        ({"vary": {"frictoin": [1]}}, r"vary\.frictoin: .* did you mean friction"),
        ({"repeats": 0}, "repeats: expected an integer of at least 1"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    file = written(tmp_path / "plan.yaml", **changes)
    with pytest.raises(InputError, match=message):
        planned_exchanges(read_plan(file), 1, file)


def test_a_campaign_of_runs_has_no_exchanges(tmp_path):
    file = written(tmp_path / "plan.yaml")
    with pytest.raises(InputError, match=r"expected run, got repex; .* openmm_les\.repex"):
        runner.run(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()
