"""What the documents show works: the README's snippets and the examples, in a short mode."""

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


@pytest.mark.parametrize("model", [["--model", "my.les.pt"], []])
def test_example_of_a_peptide(folder, model):
    arguments = [*model, "--steps", 40, "--output", "out"]
    out = run([folder / "examples" / "01_md_of_a_peptide.py", *arguments], folder)
    assert "100.0%" in out
    assert (folder / "out" / "trajectory.dcd").stat().st_size > 1000
    rows = (folder / "out" / "energies.csv").read_text().splitlines()
    assert len(rows) == 21  # a header and one row for each report


def test_example_without_a_model_says_what_to_give(folder):
    done = subprocess.run(
        [sys.executable, folder / "examples" / "01_md_of_a_peptide.py", "--model", "none.model"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "none.model does not exist. Give a trained MACE-LES model" in done.stderr
