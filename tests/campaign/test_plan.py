"""Plans: which runs follow from a file, and what is wrong with a file."""

import csv
import io
import math
import re

import pytest
import yaml
from support.campaigns import BASE, write_plan
from support.documents import blocks
from support.runs import PEPTIDE, ROOT

from openmm_les.campaign.plan import planned_runs, read_plan, table
from openmm_les.errors import InputError
from openmm_les.simulation.config import RunConfig


def test_the_plan_in_the_documents():
    plan = ROOT / "examples" / "campaign.yaml"
    assert f"```yaml\n{plan.read_text()}```" in (ROOT / "docs/howto/campaigns.md").read_text()
    assert len(runs_of(plan)) == 6


def test_the_plan_in_the_readme(tmp_path):
    """As its reader types it, in a folder that has the examples; planned, but not run."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (plan,) = (b for b in blocks(ROOT / "README.md") if b.language == "yaml")
    (tmp_path / "plan.yaml").write_text(plan.code)
    (commands,) = (b for b in blocks(ROOT / "README.md") if b.elsewhere.endswith("test_plan.py"))
    assert commands.shell_lines()[0].split()[-3:] == ["plan.yaml", "-o", "campaign"]
    runs = runs_of(tmp_path / "plan.yaml")
    assert len(runs) == 3
    assert all(run.config.structure.is_file() for run in runs)


def runs_of(path, seed=5):
    return planned_runs(read_plan(path), seed, path)


def test_products_and_lists_that_go_together(tmp_path):
    plan = write_plan(
        tmp_path / "plan.yaml",
        vary={"temperature": [280, 298.15], "pressure": [1.0]},
        zip={"ensemble": ["NVT", "NVE"], "friction": [1, 1e-2]},
        repeats=2,
    )
    runs = runs_of(plan)
    assert len(runs) == 8
    assert runs[0].name == "ensemble-NVT_temperature-280_pressure-1_friction-1_repeat-1"
    assert runs[-1].name == "ensemble-NVE_temperature-298.15_pressure-1_friction-0.01_repeat-2"
    config = runs[-1].config
    assert (config.ensemble, config.friction, config.temperature) == ("NVE", 0.01, 298.15)
    assert (config.steps, config.structure) == (BASE["steps"], PEPTIDE)
    assert len({run.config.seed for run in runs}) == 8


def test_names_and_seeds_do_not_depend_on_what_else_there_is(tmp_path):
    few = runs_of(write_plan(tmp_path / "few.yaml", vary={"temperature": [300]}))
    more = write_plan(tmp_path / "more.yaml", vary={"temperature": [250, 300.0]}, repeats=2)
    same = [run for run in runs_of(more) if run.name == few[0].name]
    assert [run.config for run in same] == [few[0].config]
    assert runs_of(more, seed=6)[0].config.seed != runs_of(more)[0].config.seed


def test_paths_lists_and_switches_in_names(tmp_path):
    """Paths are relative to the file; two of the same name in other directories differ."""
    plan = write_plan(
        tmp_path / "plan.yaml",
        vary={
            "structure": ["a/in water.pdb", "b/in water.pdb"],
            "response": [["dipole", "charges"], None],
            "cuda_graphs": [True, False],
        },
    )
    runs = runs_of(plan)
    assert len(runs) == 8
    start, end = "structure-a-in-water.pdb-", "_response-dipole+charges_cuda_graphs-on_repeat-1"
    assert re.fullmatch(f"{re.escape(start)}[0-9a-f]{{8}}{re.escape(end)}", runs[0].name)
    assert runs[0].config.structure == tmp_path / "a" / "in water.pdb"
    assert "response-None" in runs[-1].name


@pytest.mark.parametrize(
    "vary",
    [
        {"structure": ["ä.pdb", "ö.pdb", "水.pdb", "-.pdb", "pdb"]},
        {"structure": ["a/b.pdb", "a-b.pdb", "a b.pdb", "a_b.pdb", "a-b.cif", "a/b"]},
        {"structure": ["x" * 300 + "1.pdb", "x" * 300 + "2.pdb", "x" * 300 + "ä"]},
        {"ml_region": [["a", "b"], ["a+b"], ["a b"]], "force_field": [["c.xml"]]},
        {"structure": ["a_model-b", "a"], "model": ["c", "b_model-c"]},
    ],
)
def test_values_that_differ_have_names_that_do(tmp_path, vary):
    """Whatever the values; names do not depend on the order of lists."""
    runs = runs_of(write_plan(tmp_path / "plan.yaml", vary=vary, repeats=2))
    names = {run.name for run in runs}
    assert len(names) == len(runs) == 2 * math.prod(map(len, vary.values()))
    assert all(re.fullmatch(r"[A-Za-z0-9_.+-]{1,200}", name) for name in names)
    if len(vary) == 1:
        turned = {name: values[::-1] for name, values in vary.items()}
        plan = write_plan(tmp_path / "plan.yaml", vary=turned, repeats=2)
        assert {run.name: run.config for run in runs_of(plan)} == {r.name: r.config for r in runs}


def test_settings_that_runs_share_become_text_once(tmp_path, monkeypatch):
    """Thousands of runs are planned in seconds."""
    dump, made = yaml.safe_dump, []
    monkeypatch.setattr("yaml.safe_dump", lambda v, **how: made.append(v) or dump(v, **how))
    plan = tmp_path / "plan.yaml"
    plan.write_text("base: {structure: a.pdb, model: les-demo, friction: 2.125}\nrepeats: 30\n")
    for run in runs_of(plan):
        run.config.to_yaml(tmp_path)
    assert len(made) < 30 + len(RunConfig.model_fields) + 1


def test_long_names_are_cut(tmp_path):
    long = ["x" * 300 + "1.pdb", "x" * 300 + "2.pdb"]
    runs = runs_of(write_plan(tmp_path / "plan.yaml", vary={"structure": long}))
    assert len({run.name for run in runs}) == 2
    assert max(len(run.name) for run in runs) < 100


def test_the_table(tmp_path):
    plan = write_plan(tmp_path / "plan.yaml", vary={"steps": [10, 20]}, repeats=2)
    rows = list(csv.DictReader(io.StringIO(table(runs_of(plan)))))
    assert [row["steps"] for row in rows] == ["10", "10", "20", "20"]
    assert [row["repeat"] for row in rows] == ["1", "2", "1", "2"]
    assert list(rows[0]) == ["run", "steps", "repeat", "equilibration_steps", "time_step", "seed"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vry": {}}, r"vry: unknown field; did you mean vary\?"),
        ({"command": "rpeex"}, "command: expected run or repex, got 'rpeex'"),
        ({"steps": 5}, r"steps: unknown field \(a setting of the runs belongs below base\)"),
        ({"vary": [1]}, r"vary: expected a list of values for each setting \(.*\), got \[1\]"),
        ({"vary": {"pressure": 1}}, r"vary\.pressure: expected a list of values .*, got 1"),
        ({"vary": {"pressure": []}}, r"vary\.pressure: expected at least one value, got none"),
        ({"vary": {"temprature": [1]}}, r"vary\.temprature: .* did you mean temperature\?"),
        ({"vary": {"output": ["a"]}}, r"vary\.output: leave it out; every run has a dir"),
        ({"base": {"seed": 1}, "repeats": 2}, r"base\.seed: runs with the same seed are the same"),
        ({"base": {"friction": 1}, "vary": {"friction": [1]}}, "once, got it in base, too"),
        (
            {"zip": {"pressure": [1, 2], "friction": [1]}},
            "zip: expected lists of equal length, got pressure 2, friction 1",
        ),
        ({"repeats": 0}, "repeats: expected an integer of at least 1 .*, got 0"),
        ({"seed": 2**31}, "seed: expected an integer of at least 1 and at most 2147483647"),
        (
            {"vary": {"temperature": [300, -1]}},
            r"temperature: expected a bare number above 0 .* -1",
        ),
        ({"vary": {"steps": [15]}}, r"steps: expected a multiple of report_interval \(10\)"),
        ({"vary": {"temperature": [300, 300.0]}}, "differ, got temperature: 300 and temperature"),
        ({"vary": {"seed": list(range(1, 200)), "steps": [10] * 2}}, "differ, got"),
    ],
)
def test_mistakes(tmp_path, fields, message):
    plan = tmp_path / "plan.yaml"
    base = {"structure": "a.pdb", "model": "les-demo", "report_interval": 10}
    base |= {"equilibration_steps": 0} | fields.get("base", {})
    plan.write_text(yaml.safe_dump(fields | {"base": base}, sort_keys=False))
    with pytest.raises(InputError, match=message) as caught:
        runs_of(plan)
    assert str(caught.value).startswith(f"{plan}: ")
    assert "\n" not in str(caught.value)


def test_a_plan_of_another_kind(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("- temperature")
    with pytest.raises(
        InputError, match=r"such as 'base: \.\.\.' .* got a list; there are command"
    ):
        read_plan(plan)
