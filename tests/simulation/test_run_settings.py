"""Settings of `openmm-les run` in Python and in files that are not what they seem."""

from pathlib import Path

import numpy as np
import pytest
from openmm import unit
from support.runs import PEPTIDE, command

from openmm_les import InputError
from openmm_les import simulation as md
from openmm_les.simulation.config import warn_of_units


def made(**changes):
    return md.RunConfig(**{"structure": PEPTIDE, "model": "les-demo"} | changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stepz": 3}, r"stepz: unknown field; did you mean steps\?"),
        ({"timeStep": 1}, r"timeStep: unknown field; did you mean time_step\?"),
        ({"temperature": 300 * unit.nanometer}, r"temperature: expected .*\[K\]\), got 300 nm"),
        ({"steps": 300 * unit.kelvin}, "steps: expected an integer of at least 1 .*, got 300 K"),
        ({"model": 5}, "model: expected a text .*, got 5"),
        ({"structure": "a\0b"}, r"structure: expected a path .*, got "),
        ({"temperature": "x" * 10_000}, r"temperature: expected .{,100}got 'x{79}\.\.\.$"),
        ({"temperature": None, "steps": 0}, "temperature: expected .*; steps: expected"),
    ],
)
def test_a_wrong_setting_in_python_is_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        made(**given)
    text = str(caught.value)
    assert "\n" not in text
    assert "pydantic" not in text


def test_settings_that_are_missing():
    with pytest.raises(InputError, match=r"^structure: missing; .*; model: missing; [^\n]*$"):
        md.RunConfig()


@pytest.mark.parametrize("given", ["a.pdb", {"structure": "a.pdb"}])
def test_settings_without_names(given):
    with pytest.raises(InputError, match=r"^RunConfig: expected settings by name, such"):
        md.RunConfig(given)


def test_settings_do_not_change():
    with pytest.raises(InputError, match=r"^steps: settings do not change; make new ones, such as"):
        made().steps = 3


def test_quantities_paths_and_numbers_of_numpy():
    got = made(
        temperature=350 * unit.kelvin,
        time_step=0.0005 * unit.picosecond,
        friction=2 / unit.picosecond,
        pressure=101325 * unit.pascal,
        model=Path("own.les.pt"),
        steps=np.int64(4000),
        ewald_tolerance=np.float32(2**-10),
        ml_region=["A:1"],
        force_field=[Path("own.xml")],
        nonbonded_cutoff=9 * unit.angstrom,
    )
    assert (got.temperature, got.friction, got.steps) == (350.0, 2.0, 4000)
    assert got.time_step == pytest.approx(0.5)
    assert got.pressure == pytest.approx(1.01325)
    assert got.nonbonded_cutoff == pytest.approx(0.9)
    assert (got.model, got.force_field) == (str(Path.cwd() / "own.les.pt"), ("own.xml",))
    assert got.ewald_tolerance == 2**-10


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"time_step": 0.0005}, "time_step: 0.0005 fs is unusual (0.05 to 5); the unit is fs"),
        ({"time_step": 500}, "time_step: 500 fs is unusual"),
        ({"temperature": 25}, "temperature: 25 K is unusual (50 to 3000); the unit is K"),
        ({"pressure": 101325}, "pressure: 101325 bar is unusual (0.001 to 50000); the unit is bar"),
        ({"friction": 1e12}, "friction: 1e+12 1/ps is unusual"),
        ({"nonbonded_cutoff": 9.0}, "nonbonded_cutoff: 9 nm is unusual (0.4 to 3); the unit is nm"),
    ],
)
def test_values_in_another_unit_are_told(caplog, given, told):
    region = {"ml_region": "A:1", "force_field": "amber14-all.xml"}
    warn_of_units(made(**region))
    assert not caplog.text
    warn_of_units(made(**region | given))
    assert told in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", r"an alias \(\*x\): write the value out \(line 2, column 4\)"),
        ("- &x [*x]", r"an alias"),
        ("[" * 5000, "maximum recursion depth exceeded"),
        ("steps: " + "9" * 5000, "digit"),
        ("steps: 10\nseed: 3\nsteps: 20", r"steps is there more than once \(line 3, column 1\)$"),
        ("{[1]: 2}", "unhashable key"),
        ("seed: 2024-13-45", "month must be in 1..12"),
        ("seed: !!int x", "invalid literal for int"),
        ("\0", "unacceptable character"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    ],
)
def test_hostile_files_are_one_line(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(
        InputError, match=f"config: .*config.yaml is not valid YAML: .*{message}"
    ) as e:
        md.load(file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_a_file(tmp_path, encoding):
    file = tmp_path / "config.yaml"
    file.write_text(f"structure: {PEPTIDE}\r\nmodel: les-demo\r\nsteps: 2000\r\n", encoding)
    assert md.load(file).steps == 2000


def test_the_directory_of_a_run_stands_for_its_file(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(f"structure: {PEPTIDE}\nmodel: les-demo\noutput: .\n")
    assert md.load(tmp_path) == md.load(tmp_path / "config.yaml")
    assert md.load(tmp_path).output == tmp_path
    status, _, err = command(capsys, tmp_path, "--steps", "x")
    assert (status, err.count("--steps: expected an integer")) == (2, 1)


def test_settings_that_contradict_each_other_name_their_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"structure: {PEPTIDE}\nmodel: les-demo\nsystem: a.xml\n")
    with pytest.raises(InputError, match=rf"^{file}: system: this goes with ml_region"):
        md.load(file)


def test_many_wrong_settings_are_not_all_named(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("".join(f"x{i}: {i}\n" for i in range(40)))
    with pytest.raises(InputError, match=r"; and \d+ more; there are structure, ") as caught:
        md.load(file)
    assert len(str(caught.value)) < 2000
