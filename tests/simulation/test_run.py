"""`openmm-les run`: settings, what a run writes, and how it ends."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import ase.build
import ase.io
import numpy as np
import openmm
import pytest
from openmm import app, unit
from support.runs import (
    PEPTIDE,
    ROOT,
    Recorder,
    assert_same_run,
    command,
    config,
    flags,
    rows,
    settings,
    water_box,
)

from openmm_les import ArtifactError, InputError
from openmm_les import simulation as md
from openmm_les.simulation import output
from openmm_les.simulation.builder import resolve_config
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.fields import default
from openmm_les.simulation.structures.structure import check_time_step, read_structure
from openmm_les.simulation.summary import Summary, duration, read_log, summarise

SETTINGS = (ROOT / "docs" / "reference" / "run-settings.md").read_text()
FILES = (ROOT / "docs" / "reference" / "run-output.md").read_text()


def frames(path) -> tuple[int, int]:
    """Frames that a DCD header counts, and those that its size has room for (not periodic)."""
    content = path.read_bytes()
    atoms = int.from_bytes(content[268:272], "little")
    return int.from_bytes(content[8:12], "little"), (len(content) - 276) / (3 * (4 * atoms + 8))


# Settings


def test_help_needs_neither_torch_nor_openmm():
    code = (
        "import sys\nfrom openmm_les.cli import main\n"
        "try: main(['run', '--help'])\n"
        "finally: print([m for m in ('torch', 'openmm', 'numpy') if m in sys.modules])"
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")
    for name in md.RunConfig.model_fields:
        assert f"--{name.replace('_', '-')} " in done.stdout


def test_printed_defaults_are_a_config(capsys, tmp_path, monkeypatch):
    """Once what is required is filled in, which the printed text marks."""
    monkeypatch.chdir(tmp_path)
    status, out, _ = command(capsys, "--print-config")
    assert status == 0
    assert "# structure: PATH  (required)\n" in out
    filled = out.replace("# structure: PATH  (required)", "structure: a.pdb")
    filled = filled.replace("# model: TEXT  (required)", "model: les-demo")
    (tmp_path / "config.yaml").write_text(filled)
    got = md.load("config.yaml")
    expected = md.RunConfig(structure=tmp_path / "a.pdb", model="les-demo", output=tmp_path / "run")
    assert got == expected


def test_printed_config_has_what_file_and_flags_give(capsys, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.yaml").write_text(
        "structure: a.pdb\nmodel: ../m.les.pt\nsteps: 1e6\nensemble: npt\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["sub/config.yaml", "--temperature", "310", "--output", "there"]
    status, out, _ = command(capsys, *arguments, "--print-config")
    assert status == 0
    (tmp_path / "printed.yaml").write_text(out)
    assert "structure: sub/a.pdb\n" in out
    got = md.load("printed.yaml")
    assert got == md.load(arguments[0], {"temperature": "310", "output": "there"})
    assert (got.structure, got.model) == (tmp_path / "sub" / "a.pdb", str(tmp_path / "m.les.pt"))
    assert (got.steps, got.temperature, got.ensemble) == (1_000_000, 310.0, "NPT")
    assert got.output == tmp_path / "there"


def test_null_on_the_command_line_is_none(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 5\nresponse: dipole\n")
    flags = ["--seed", "null", "--response", "null"]
    status, out, _ = command(capsys, "config.yaml", *flags, "--print-config")
    assert status == 0
    assert "\nseed: null\n" in out
    assert "\nresponse: null\n" in out


def test_output_is_beside_the_config_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(f"structure: {PEPTIDE}\nmodel: les-demo\n")
    assert md.load(file).output == tmp_path / "run"


@pytest.mark.parametrize(("text", "expected"), [("on", "on"), ("off", "off"), ("auto", "auto")])
def test_graphs_are_on_or_off_as_yaml_has_it(tmp_path, text, expected):
    file = tmp_path / "config.yaml"
    file.write_text(f"structure: {PEPTIDE}\nmodel: les-demo\ncuda_graphs: {text}\n")
    assert md.load(file).cuda_graphs == expected
    assert md.load(file, {"cuda_graphs": "auto"}).cuda_graphs == "auto"


def test_graphs_without_a_gpu_are_refused(tmp_path):
    with pytest.raises(InputError, match="cuda_graphs: on needs a CUDA device, got device 'cpu'"):
        md.run(config(tmp_path, cuda_graphs="on"))


def test_paths_given_in_python_are_absolute(tmp_path, monkeypatch):
    """A run can be continued from another working directory."""
    monkeypatch.chdir(tmp_path)
    got = md.RunConfig(structure="a.pdb", model="sub/m.les.pt", output="there")
    assert (got.structure, got.output) == (tmp_path / "a.pdb", tmp_path / "there")
    assert got.model == str(tmp_path / "sub" / "m.les.pt")
    assert md.RunConfig(structure="a.pdb", model="les-demo").output == tmp_path / "run"
    assert md.RunConfig(structure="a.pdb", model="les-demo").model == "les-demo"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature: 300", "{}: temprature: unknown field; did you mean temperature?"),
        ("Temperature: 300", "unknown field; did you mean temperature?"),
        ("xyz: 1", "unknown field; there are structure, model, output,"),
        ("temperature: 300 K", "expected a bare number above 0 (temperature [K]), got '300 K'"),
        ("temperature: yes", "temperature: expected a bare number above 0 (temperature [K]), got"),
        ("temperature: .nan", "temperature: expected a bare number"),
        ("steps: 0", "{}: steps: expected an integer of at least 1 (steps of production), got 0"),
        ("steps: 1000.5", "got 1000.5"),
        ("steps: 1500", "steps: expected a multiple of report_interval (1000), such as 1000 or 2"),
        ("steps: 5", "steps: expected a multiple of report_interval (1000), such as 1000, got 5"),
        ("equilibration_steps: 10", "equilibration_steps: expected a multiple of report_interval"),
        ("trajectory_interval: 10", "trajectory_interval: expected a multiple of report_interval"),
        ("response: [current, mass]", "response: expected some of dipole, current, charges, born_"),
        ("{ensemble: NPT, barostat_interval: 30}", "report_interval: expected a multiple of baro"),
        ("ensemble: NVP", "ensemble: expected one of NVT, NPT, NVE (ensemble"),
        ("cuda_graphs: 1", "cuda_graphs: expected one of auto, on, off (replay the model as a"),
        ("seed: 0", "seed: expected an integer of at least 1 and at most 2147483647 or null"),
        ("structure: 5", "structure: expected a path (PDB"),
        ("steps: 10\nsteps: 20", "config: {} is not valid YAML: steps is there more than once (l"),
        ("steps: [1", "is not valid YAML: expected ',' or ']'"),
        ("- a", "config: expected lines such as 'steps: 1000' in {}, got a list"),
        ("output: x", "structure: missing; give --structure PATH, or structure in a config file; "),
    ],
)
def test_a_wrong_file_is_one_line(capsys, tmp_path, text, message):
    file = tmp_path / "config.yaml"
    complete = "structure" in text or text in ("- a", "output: x") or text.startswith("{")
    head = "" if complete else "structure: a.pdb\nmodel: les-demo\n"
    file.write_text(head + text.replace("{e", "{structure: a.pdb, model: les-demo, e") + "\n")
    status, out, err = command(capsys, file)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message.format(file) in err


def test_wrong_flags_are_named_as_flags(capsys):
    given = ["--structure", PEPTIDE, "--model", "les-demo"]
    status, _, err = command(capsys, *given, "--time-step", "fast", "--max-neighbors", -1)
    assert status == 2
    assert "--time-step: expected a bare number above 0 (time step [fs]), got 'fast'" in err
    assert "--max-neighbors: expected an integer of at least 1 or null" in err
    assert command(capsys, "none.yaml")[2].endswith(
        "config: cannot read none.yaml: No such file or directory\n"
    )


def test_documented_fields_are_those_of_the_model():
    table = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", SETTINGS, re.MULTILINE)
    fields = md.RunConfig.model_fields
    assert table == [(name, default(field), field.description) for name, field in fields.items()]


def test_documented_files_are_those_that_are_written():
    section = FILES.split("## What is written")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `([\w.]+)`", section, re.MULTILINE)) == sorted(output.ALL)


# What a run writes


def test_a_run_from_the_command_line(capsys, tmp_path):
    status, out, err = command(capsys, *flags(settings(tmp_path)))
    assert status == 0, err
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {*output.ALL, ".lock"} - {
        output.RESPONSE,
        output.INTERPOLATION,
        output.REPORT,
    }
    assert rows(folder / "equilibration.csv") == 2
    assert frames(folder / "trajectory.dcd") == (3, 3)
    log = read_log(folder / "log.csv")
    assert (folder / "log.csv").read_text().startswith('#"Step","Time (ps)","Potential Energy')
    assert log["Step"] == [20, 40, 60, 80, 100, 120]
    assert log["Time (ps)"] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])

    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 120
    assert summary["time_ps"] == pytest.approx(0.06)
    assert summary["temperature"]["mean"] == pytest.approx(np.mean(log["Temperature (K)"]))
    potential = log["Potential Energy (kJ/mole)"]
    assert summary["potential_energy"]["std"] == pytest.approx(np.std(potential, ddof=1))
    assert summary["config"]["platform"] == "Reference"
    assert (summary["density"], summary["energy_drift"]) == (None, None)
    assert out.splitlines()[0] == "steps             120 of 0.5 fs, 0.06 ps"
    assert str(folder / "trajectory.dcd") in out

    lines = err.splitlines()
    assert lines[0] == "minimising the energy of 22 atoms"
    assert lines[1].startswith("minimised in 20 iterations from -")
    assert sum(line.startswith("production ") for line in lines) == 10
    assert lines[-1].startswith("production 100 %: step 120 of 120, ")
    assert md.load(folder / "config.yaml") == config(tmp_path)

    _, again, _ = command(capsys, *flags(settings(tmp_path)), "--resume")
    assert again == out
    _, again, _ = command(capsys, *flags(settings(tmp_path)), "--resume", "--json")
    assert again == (folder / "summary.json").read_text()


def test_a_single_row_has_no_scatter(tmp_path):
    names = ["Time (ps)", "Temperature (K)", "Potential Energy (kJ/mole)"]
    (tmp_path / "log.csv").write_text("#" + ",".join(names) + "\n1,300,-5\n")
    fields = config(tmp_path).model_dump(mode="json") | {"steps": 20}
    summary = summarise(tmp_path / "log.csv", fields, atoms=22, wall_seconds=1.0, files={})
    assert json.loads(summary.to_json())["temperature"] == {"mean": 300.0, "std": None}
    assert "+-" not in summary.table()
    assert "over 1 row of log.csv" in summary.table()


def test_final_positions_are_those_of_the_last_frame(uninterrupted):
    folder = uninterrupted("NPT") / "run"
    final = app.PDBFile(str(folder / "final.pdb"))
    last = (folder / "trajectory.dcd").read_bytes()[-3 * (4 * 24 + 8) :]
    x, y, z = (np.frombuffer(last[i * 104 + 4 : i * 104 + 100], "<f4") for i in range(3))
    positions = final.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    np.testing.assert_allclose(positions, np.stack([x, y, z], axis=1), atol=6e-4)
    box = final.topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
    volumes = read_log(folder / "log.csv")["Box Volume (nm^3)"]
    assert box**3 == pytest.approx(volumes[-1], abs=1e-3)
    assert len({round(volume, 12) for volume in volumes}) > 1  # the barostat works


def test_npt_reports_a_density_and_nve_a_drift(uninterrupted):
    def logged(ensemble):
        folder = uninterrupted(ensemble) / "run"
        summary = Summary.from_json((folder / "summary.json").read_text())
        return summary, read_log(folder / "log.csv")

    water, log = logged("NPT")
    assert water.density.mean == pytest.approx(np.mean(log["Density (g/mL)"]))
    assert " g/mL" in water.table()
    free, log = logged("NVE")
    energies = log["Total Energy (kJ/mole)"]
    assert np.ptp(energies) < 1.0
    slope = np.polyfit(log["Time (ps)"], energies, 1)[0]
    assert free.energy_drift == pytest.approx(slope / 96.48533212331 * 1000 / 22)
    assert " meV/atom/ps" in free.table()
    # Equilibrated with a thermostat, which leaves the peptide near its temperature.
    assert (uninterrupted("NVE") / "run" / "equilibration.csv").exists()


def test_an_unset_seed_is_drawn_and_recorded(tmp_path):
    changes = {"seed": None, "steps": 20, "equilibration_steps": 0, "minimise_iterations": 0}
    first, second = (resolve_config(config(tmp_path, **changes)).seed for _ in range(2))
    assert first != second
    md.run(config(tmp_path, **changes))
    log = (tmp_path / "run" / "log.csv").read_bytes()
    assert not (tmp_path / "run" / "minimised.pdb").exists()
    md.run(md.load(tmp_path / "run" / "config.yaml"), overwrite=True)
    assert (tmp_path / "run" / "log.csv").read_bytes() == log


def test_minimisation_lowers_the_energy(tmp_path):
    recorder = Recorder()
    changes = {"steps": 20, "equilibration_steps": 0, "minimise_iterations": 1000}
    md.run(config(tmp_path, **changes), callbacks=recorder)
    before, after = map(float, re.findall(r"(-?\d+\.\d) ", recorder.messages[1]))
    assert before - after > 10
    assert recorder.steps == [("production", 10), ("production", 20)]


def test_on_another_platform(tmp_path):
    """It resumes to the same bits, too."""
    folders = [tmp_path / "complete", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()

    def copy(progress):
        if (progress.phase, progress.step) == ("production", 20):
            shutil.copytree(folders[0] / "run", folders[1] / "run")

    changes = {"platform": "CPU", "steps": 40, "equilibration_steps": 0}
    md.run(config(folders[0], "NPT", **changes), callbacks=Recorder(copy))
    md.run(config(folders[1], "NPT", **changes), resume=True)
    assert_same_run(*(folder / "run" for folder in folders))


# Structures


def test_structures_that_cannot_be_read(tmp_path):
    for name, content, message in (
        ("a.xyz", "", "expected a PDB or mmCIF file"),
        ("b.pdb", "nothing here\n", "b.pdb"),
        ("c.cif", "data_\n", "c.cif"),
        ("d.pdb", PEPTIDE.read_text().replace("   0.059", "     nan", 1), "not finite"),
    ):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(InputError, match=f"structure: .*{message}"):
            read_structure(path)
    with pytest.raises(InputError, match=r"cannot read .*none\.pdb: No such file"):
        read_structure(tmp_path / "none.pdb")


def test_atoms_of_one_name(tmp_path):
    """OpenMM's reader keeps one of them and warns: a run of what is left would mean nothing."""
    path = tmp_path / "a.pdb"
    ase.io.write(path, ase.build.molecule("CH3CH2OH"))
    with pytest.warns(UserWarning, match="duplicate atom"):
        assert app.PDBFile(str(path)).topology.getNumAtoms() == 3
    with pytest.raises(InputError, match=r"a name of its own for every atom .*a\.pdb; atoms of"):
        read_structure(path)


def test_other_warnings_of_the_reader_are_passed_on(tmp_path):
    path = tmp_path / "a.pdb"
    lines = PEPTIDE.read_text().splitlines(keepends=True)
    path.write_text("".join(line.replace("ALA A   2", "ALA A   1") for line in lines))
    with pytest.warns(UserWarning, match="consecutive residues with same number"):
        app.PDBFile(str(path))
    with pytest.warns(UserWarning, match="consecutive residues with same number"):
        read_structure(path)


def test_carbon_without_hydrogen(tmp_path, caplog):
    atoms = ase.build.molecule("CH3CH2OH")
    atoms.set_array("atomtypes", [f"X{i}" for i in range(9)], dtype="U4")
    path = tmp_path / "a.pdb"
    ase.io.write(path, atoms)
    assert read_structure(path).topology.getNumAtoms() == 9
    assert not caplog.text
    ase.io.write(path, atoms[:3])
    read_structure(path)
    assert "residue MOL 1: carbon without hydrogen" in caplog.text


def test_long_time_steps(caplog):
    topology = app.PDBFile(str(PEPTIDE)).topology
    check_time_step(topology, 1.0)
    assert not caplog.text
    check_time_step(topology, 2.0)
    assert "time_step: 2 fs is long where bonds to hydrogen are free" in caplog.text


def test_missing_hydrogens_and_unknown_elements(tmp_path):
    lines = PEPTIDE.read_text().splitlines(keepends=True)
    path = tmp_path / "a.pdb"
    path.write_text("".join(line for line in lines if line[76:78].strip() != "H"))
    with pytest.raises(InputError, match=r"hydrogen atoms, got none in residues ACE A:1, ALA A"):
        read_structure(path)
    path.write_text(PEPTIDE.read_text().replace("           O", "           S"))
    with pytest.raises(InputError, match=r"elements the model knows \(H, C, N, O\), got S"):
        md.run(config(tmp_path, structure=path))
    assert not (tmp_path / "run" / "config.yaml").exists()
    shutil.copy(PEPTIDE, path)
    md.run(config(tmp_path, structure=path, steps=20))  # the next attempt is not in the way


def test_mmcif_and_several_models(tmp_path, caplog):
    pdb = app.PDBFile(str(PEPTIDE))
    with (tmp_path / "a.cif").open("w") as stream:
        app.PDBxFile.writeFile(pdb.topology, pdb.positions, stream)
    got = read_structure(tmp_path / "a.cif")
    expected = read_structure(PEPTIDE)
    np.testing.assert_allclose(got.positions, expected.positions, atol=1e-4)
    assert got.topology.getNumBonds() == expected.topology.getNumBonds()

    with (tmp_path / "two.pdb").open("w") as stream:
        app.PDBFile.writeHeader(pdb.topology, stream)
        for index in (1, 2):
            shifted = pdb.getPositions(asNumpy=True) + index * 0.1 * unit.nanometer
            app.PDBFile.writeModel(pdb.topology, shifted, stream, modelIndex=index)
        app.PDBFile.writeFooter(pdb.topology, stream)
    got = read_structure(tmp_path / "two.pdb")
    np.testing.assert_allclose(got.positions, expected.positions + 0.1, atol=1e-3)
    assert "has 2 models; the first is used" in caplog.text


def test_a_box_that_stands_for_none(tmp_path):
    path = tmp_path / "a.pdb"
    box = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    path.write_text(box + PEPTIDE.read_text())
    assert app.PDBFile(str(path)).topology.getPeriodicBoxVectors() is not None
    assert read_structure(path).box is None


def test_molecules_without_bonds(tmp_path, caplog):
    """What a barostat cannot move as a whole is refused; elsewhere it is told."""
    path = water_box(tmp_path / "ligands.pdb")
    path.write_text(
        "".join(
            line.replace("HOH", "LIG")
            for line in path.read_text().splitlines(keepends=True)
            if not line.startswith("CONECT")
        )
    )
    with pytest.raises(
        InputError, match=r"residues LIG A:1, LIG A:2, LIG A:3 and 5 more; add CONECT"
    ):
        md.run(config(tmp_path, "NPT", structure=path))
    changes = {"structure": path, "steps": 20, "equilibration_steps": 0}
    md.run(config(tmp_path, "NVT", **changes))
    assert "a trajectory wraps them one by one" in caplog.text


# When it breaks


def test_a_simulation_that_blows_up(capsys, tmp_path):
    """One line, status 1, the last good checkpoint and the rows before."""
    fields = settings(tmp_path, time_step=3.0, steps=2000, equilibration_steps=0)
    status, out, err = command(capsys, *flags(fields))
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert re.search(r"error: the simulation broke (after|by) step \d+ of production: ", last)
    assert f"kept in {tmp_path / 'run'}" in last
    assert "Traceback" not in err
    assert (tmp_path / "run" / "checkpoint.zip").exists()


def test_atoms_at_one_place(tmp_path):
    path = tmp_path / "a.pdb"
    lines = PEPTIDE.read_text().splitlines(keepends=True)
    atoms = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    first, second = atoms[:2]
    lines[second] = lines[second][:30] + lines[first][30:54] + lines[second][54:]
    path.write_text("".join(lines))
    with pytest.raises(
        InputError, match=r"atom 1 \(CH3 of ACE A:1\) and atom 2 \(H1 of ACE A:1\) are 0 A apart"
    ):
        md.run(config(tmp_path, structure=path))


def test_names_of_models(tmp_path):
    with pytest.raises(ArtifactError, match=r"expected a name \(maceles.* did you mean les-demo\?"):
        md.run(config(tmp_path, model="les-dmo"))


def test_platforms_and_devices_that_are_not_here(tmp_path):
    names = {
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    }
    absent = ({"CUDA", "OpenCL", "HIP"} - names).pop()
    with pytest.raises(InputError, match=f"platform: expected one of Reference.*got {absent}"):
        md.run(config(tmp_path, platform=absent))
    with pytest.raises(InputError, match="device: expected a torch device of this machine"):
        md.run(config(tmp_path, device="cuda:99"))


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (125.4, "2 min 05 s"), (7500, "2 h 05 min")]
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("text", ["", '#"Step"\n1,2\n', '#"Step"\nlow\n', "a" * 200_000, "\x00"])
def test_a_damaged_log_is_refused_by_name(tmp_path, text):
    log = tmp_path / "log.csv"
    log.write_text(text)
    config = md.RunConfig(structure=PEPTIDE, model="les-demo").model_dump(mode="json")
    with pytest.raises(InputError, match=r"^output: .*log\.csv is not the log of a run") as caught:
        summarise(log, config, atoms=22, wall_seconds=1.0, files={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"step": 10**30}, {"step": True}, {"box": [[float("nan")] * 3] * 3}]
)
def test_a_checkpoint_with_impossible_numbers_is_refused(tmp_path, change):
    config = md.RunConfig(structure=PEPTIDE, model="les-demo").model_dump(mode="json")
    sound = Checkpoint("production", 20, b"", None, config, config, "", "", {}, 1.0)
    path = tmp_path / "checkpoint.zip"
    dataclasses.replace(sound, **change).write(path)
    with pytest.raises(InputError, match=r"checkpoint\.zip is damaged \((step|box)"):
        Checkpoint.read(path)
    sound.write(path)
    assert Checkpoint.read(path) == sound
