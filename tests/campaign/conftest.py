"""A finished campaign that several tests look at."""

from types import SimpleNamespace

import pytest
from support.campaigns import Killer, write_plan

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
    """Six runs on two workers, one of which was killed three times."""
    folder = tmp_path_factory.mktemp("campaign")
    plan = write_plan(folder / "plan.yaml", vary={"temperature": [280, 300, 320.5]}, repeats=2)
    recorder = Recorder()
    with connect(2) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_INTERVAL", 0.5)
        killer = Killer(client, folder / "out", 3)
        killer.start()
        result = runner.run(plan, folder / "out", client=client, callbacks=recorder)
    return SimpleNamespace(
        plan=plan,
        directory=folder / "out",
        result=result,
        recorder=recorder,
        kills=killer.killed,
    )
