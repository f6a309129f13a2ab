"""The YAML file of a free energy calculation."""

import pytest
import yaml
from support.documents import ROOT

from openmm_les import InputError
from openmm_les.free_energy.settings import planned_windows, read_settings

GOOD = {
    "base": {"model": "les-demo", "ml_region": "resname LIG", "force_field": "amber14-all.xml"},
    "windows": 3,
    "ligands": {
        name: {leg: {"structure": f"{name}-{leg}.pdb"} for leg in ("complex", "solvent")}
        for name in ("ethanol", "L-2")
    },
}


def written(folder, **changes):
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes, sort_keys=False))
    return path


def test_the_series_in_the_documents():
    file = ROOT / "examples" / "ligand_series.yaml"
    assert f"```yaml\n{file.read_text()}```" in (ROOT / "docs/howto/free-energies.md").read_text()
    runs = planned_windows(read_settings(file), file)(7)
    assert len({run.name for run in runs}) == 18  # three ligands, two legs, three windows


def test_windows_of_all_legs_of_all_ligands(tmp_path):
    file = written(tmp_path)
    settings = read_settings(file)
    assert settings.values == (0.0, 0.5, 1.0)
    runs = planned_windows(settings, file)(7)
    assert [run.name for run in runs[:4]] == [
        *(f"ethanol/complex/lambda-{x}" for x in ("0", "0.5", "1")),
        "ethanol/solvent/lambda-0",
    ]
    assert len(runs) == 12
    assert runs[1].config.lambda_interpolate == 0.5
    assert runs[1].config.structure == tmp_path / "ethanol-complex.pdb"
    assert len({run.config.seed for run in runs}) == 12


def test_seeds_do_not_depend_on_other_windows(tmp_path):
    few, many = written(tmp_path), (tmp_path / "many.yaml")
    many.write_text(yaml.safe_dump(GOOD | {"windows": [1, 0, 0.5, 0.25]}))
    seeds = [
        {run.name: run.config.seed for run in planned_windows(read_settings(file), file, more)(7)}
        for file, more in ((few, lambda where: (0.75,)), (many, lambda where: ()))
    ]
    common = {*seeds[0]} & {*seeds[1]}
    assert len(common) == 12
    assert {name: seeds[0][name] for name in common} == {name: seeds[1][name] for name in common}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"windws": 3}, "windws: unknown field; did you mean windows"),
        ({"model": "les-demo"}, r"model: unknown field \(a setting of the runs belongs below base"),
        ({"ligands": {7: {}}}, r"ligands\.7: expected a text for this name, got 7, .* in quotes"),
        ({"legs": [1, 2]}, r"legs\.0: expected a list of texts \(.*, got 1"),
        (
            {"ligands": {"a": {"complex": {}, "solvent": {}}}},
            "structure: missing; give it below base, or where runs differ",
        ),
        ({"ligands": {}}, r"ligands: expected at least one, with legs, .* got \{\}"),
        ({"windows": 1}, r"windows: expected at least two values of lambda that differ, .* got 0$"),
        ({"windows": [0, 0.5]}, r"from 0 \(the force field\) to 1 \(ML/MM\), got 0, 0.5"),
        ({"windows": [0, 0.5, 0.5, 1]}, "values of lambda that differ"),
        ({"windows": "many"}, "windows: expected an integer or a list of numbers .* got 'many'"),
        ({"legs": ["water"]}, r"ligands.ethanol: expected the legs water \(legs beside ligands"),
        ({"legs": ["a", "a"]}, "legs: expected names that differ, got a twice"),
        ({"legs": ["a", "b", "c"]}, r"legs: expected a list of texts \(one leg, or two, of which"),
        ({"ligands": {"a/b": {}}}, "expected names of ligands and legs of letters, .* got 'a/b'"),
        (
            {"base": {"lambda_interpolate": 0.5}},
            "base.lambda_interpolate: leave it out; every",
        ),
        ({"base": {"seed": 1}}, r"base.seed: leave it out; every window has its own \(windows and"),
        ({"base": {"temprature": 1}}, "base.temprature: unknown setting; did you mean temperature"),
        ({"base": GOOD["base"] | {"ensemble": "nve"}}, "ensemble: expected NVT or NPT, .* got NVE"),
        ({"seed": 0}, "seed: expected an integer of at least 1 and at most 2147483647 or null"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    file = written(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as raised:
        planned_windows(read_settings(file), file)(1)
    assert str(raised.value).startswith(f"{file}: ")


def test_a_window_that_is_no_valid_run(tmp_path):
    file = written(tmp_path, base={"model": "les-demo"})
    with pytest.raises(InputError, match="lambda_interpolate: this goes with ml_region"):
        planned_windows(read_settings(file), file)(1)
