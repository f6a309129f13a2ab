"""Damaged and hostile files of every kind, a few of each here; `make fuzz` tries thousands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from random import Random

import pytest
from fuzzing import mutate
from fuzzing.selftest import VERDICTS

TESTS = Path(__file__).parents[1]


def fuzz(folder: Path, *options: object) -> tuple[int, list[dict], str]:
    """Exit status, reports and output of ``python -m fuzzing``."""
    report = folder / "report.json"
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "fuzzing", "--failures", folder / "failures", "--json", report]
        + [str(option) for option in options],
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    assert report.exists(), done.stderr
    return done.returncode, json.loads(report.read_text()), done.stdout


@pytest.fixture(scope="module")
def bad_readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad_readers")
    limits = ("--cpu", 1, "--wall", 10)
    return folder, *fuzz(folder, "--table", "fuzzing.selftest", "--count", 0, *limits)


def test_what_must_not_happen_is_told(bad_readers):
    """And a child that died is replaced: the cases after it are tried."""
    _, status, (report,), _ = bad_readers
    assert {o["name"]: o["verdict"] for o in report["outcomes"]} == VERDICTS
    assert status == 1


def test_files_of_faults_are_kept_and_can_be_tried_again(bad_readers, tmp_path):
    folder, _, _, output = bad_readers
    kept = {p.name.partition("-")[2]: p for p in (folder / "failures" / "selftest").iterdir()}
    good = {"refused", "same", "other"}
    assert set(kept) == {name for name, verdict in VERDICTS.items() if verdict not in good}
    assert (kept["raise"] / "files" / "number.txt").read_text() == "raise"
    assert "try one again with --replay" in output
    status, (report,), _ = fuzz(tmp_path, "--table", "fuzzing.selftest", "--replay", kept["raise"])
    assert [o["verdict"] for o in report["outcomes"]] == ["exception"]
    assert status == 1


def test_mutations_are_fixed_by_their_seed_and_change_something():
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/numbers", bytes(range(256)))
        archive.writestr("a/metadata.json", json.dumps({"cutoff": 4.5, "elements": [1, 8]}))
    contents = (
        stream.getvalue(),
        b"x: 1.5\ny: [2, 3]\n",
        b'{"a": [1, {"b": 2.5}]}',
        bytes(range(160, 256)),
    )
    for content in contents:
        names = set()
        for number in range(200):
            changed, name = mutate.mutated(Random(number), content)
            assert (changed, name) == mutate.mutated(Random(number), content)
            assert changed != content
            names.add(name)
        assert names == {name.rstrip("0123456789") for name in mutate.applicable(content)}


def test_changed_members_have_right_checksums():
    """So that it is not always the checksum by which a reader notices a change."""
    sound = mutate.archive((("a/b", bytes(100), zipfile.ZIP_STORED),))
    for number in range(100):
        with zipfile.ZipFile(BytesIO(mutate.member(Random(number), sound))) as archive:
            assert archive.testzip() is None


def test_a_few_cases_of_every_kind(tmp_path):
    status, reports, output = fuzz(tmp_path, "--count", 8, "--hostile", 4)
    tried = [report for report in reports if not report["skipped"]]
    assert all(len(report["outcomes"]) >= 8 for report in tried), output
    assert len(tried) >= 15, output
    assert status == 0, output
