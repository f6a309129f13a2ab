"""What the documents show works: the README's snippets."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(arguments, folder) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path, dipeptide_artifact):
    """A place with the files that the README assumes."""
    shutil.copy(dipeptide_artifact, tmp_path / "my.les.pt")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(snippets())))
def test_readme_snippets_run(folder, number):
    (folder / "snippet.py").write_text(snippets()[number])
    run(["snippet.py"], folder)
