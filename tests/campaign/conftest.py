"""A finished campaign that several tests look at."""

import json
import os
from types import SimpleNamespace

import pytest
from filelock import FileLock
from support.campaigns import Killer, workers_of, write_plan

pytest.importorskip("distributed", reason="Dask is not installed (extra `campaign`)")

from openmm_les.campaign import runner
from openmm_les.campaign.engine import connect
from openmm_les.campaign.progress import CampaignCallbacks


class Recorder(CampaignCallbacks):
    def __init__(self) -> None:
        self.messages, self.reports = [], []

    def message(self, text):
        self.messages.append(text)

    def progress(self, progress):
        self.reports.append(progress)


@pytest.fixture(scope="session")
def campaign(tmp_path_factory):
    """Six runs on two workers, one of which was killed three times; once for all test processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "campaign"
    facts = folder / "facts.json"
    with FileLock(folder.with_suffix(".lock")):
        if not facts.exists():
            facts.write_text(json.dumps(_execute(folder)))
    known = json.loads(facts.read_text())
    return SimpleNamespace(plan=folder / "plan.yaml", directory=folder / "out", **known)


def _execute(folder) -> dict:
    folder.mkdir()
    plan = write_plan(folder / "plan.yaml", vary={"temperature": [280, 300, 320.5]}, repeats=2)
    recorder = Recorder()
    with connect(2) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_INTERVAL", 0.5)
        killer = Killer(workers_of(client), folder / "out", 3)
        killer.start()
        result = runner.run(plan, folder / "out", client=client, callbacks=recorder)
    return {
        "kills": killer.killed,
        "line": result.line(),
        "messages": recorder.messages,
        "reports": [(report.steps, report.total) for report in recorder.reports],
    }
