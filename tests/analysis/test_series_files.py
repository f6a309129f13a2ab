"""Files of time series that say where they come from, on full disks, and of bad intent."""

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import numpy as np
import pytest
from support.series import oscillator, write

from openmm_les.analysis import formats
from openmm_les.analysis.series import Header
from openmm_les.cli import main
from openmm_les.errors import InputError

needs_h5py = pytest.mark.skipif(find_spec("h5py") is None, reason="needs h5py")
ENDINGS = [".csv", pytest.param(".h5", marks=needs_h5py)]
HEADER = Header(350.0, "my.les.pt", "ab12", "physical")
MEGABYTE = 2**20


def command(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def series_of(path, header, number=400):
    """A vibration in a file."""
    time, dipole, *_ = oscillator(duration=number * 1e-3)
    file = formats.open_series(path, ["dipole"], [], header)
    file.create()
    for step, (moment, value) in enumerate(zip(time, dipole, strict=True)):
        file.append(step, moment, {"dipole": value})
    return path


def table(path):
    """Numbers of a spectrum, without comments and names."""
    lines = [line for line in path.read_text().splitlines() if line[0] != "#"]
    return np.loadtxt(lines[1:], delimiter=",")


# ------------------------------------------------------------------ what they say


@pytest.mark.parametrize("ending", ENDINGS)
def test_header_is_read_again_and_stays(tmp_path, ending):
    path = tmp_path / f"series{ending}"
    file = formats.open_series(path, ["dipole", "charges"], (3, 5), HEADER)
    file.create()
    for row in range(4):
        file.append(row, 0.1 * row, {"dipole": np.ones(3), "charges": np.zeros(2)})
    file.cut(2)
    found = formats.read(path)
    assert found.header == HEADER
    assert found.steps.tolist() == [0, 1]
    assert found.since(0.05).header == HEADER
    file.cut(0)
    assert formats.read(path).header == HEADER


@needs_h5py
def test_other_programs_find_the_header(tmp_path):
    """HDF5 attributes, and a comment that numpy leaves out."""
    import h5py

    for ending in (".csv", ".h5"):
        series_of(tmp_path / f"series{ending}", HEADER, 3)
    with h5py.File(tmp_path / "series.h5") as file:
        assert dict(file.attrs) == {**HEADER.entries(), "temperature_unit": "K"}
    names, comment, *_ = (tmp_path / "series.csv").read_text().splitlines()
    assert names.startswith('#"Step","Time (ps)"')
    assert json.loads(comment.removeprefix("#")) == {
        **HEADER.entries(),
        "units": {"temperature": "K"},
    }
    assert np.loadtxt(tmp_path / "series.csv", delimiter=",").shape == (3, 5)


def test_spectrum_takes_the_temperature_of_its_series(capsys, tmp_path):
    """And is overruled, and says what it took, and when it only assumes something."""
    stated = series_of(tmp_path / "stated.csv", HEADER)
    silent = series_of(tmp_path / "silent.csv", Header())
    found, told = {}, {}
    for name, path, options in (
        ("stated", stated, []),
        ("right", silent, ["--temperature", 350]),
        ("silent", silent, []),
        ("other", stated, ["--temperature", 300]),
    ):
        output = tmp_path / f"{name}_spectrum.csv"
        status, out, err = command(capsys, "spectrum", path, "-o", output, *options)
        assert status == 0
        lines = out.splitlines() + err.splitlines()
        told[name] = " ".join(line for line in lines if "temperature" in line)
        found[name] = table(output)[:, 1]
    np.testing.assert_array_equal(found["stated"], found["right"])
    np.testing.assert_array_equal(found["silent"], found["other"])
    np.testing.assert_allclose(found["silent"], found["stated"] * 350 / 300, rtol=1e-6)
    assert "350 K, of the series" in told["stated"]
    assert "300 K, given; the series says 350 K" in told["other"]
    assert "300 K, assumed" in told["silent"]


def test_a_temperature_that_is_assumed_is_a_warning(tmp_path, caplog):
    from openmm_les.analysis import spectra

    spectra.compute(formats.read(series_of(tmp_path / "a.csv", Header())))
    assert "does not say its temperature: 300 K are assumed" in caplog.text
    caplog.clear()
    spectra.compute(formats.read(series_of(tmp_path / "b.csv", HEADER)))
    assert not caplog.text


@pytest.mark.parametrize(
    "entries",
    ['{"temperature": -3}', '{"temperature": "warm"}', '{"temperature": 1, "units": 3}', "{broken"],
)
def test_headers_that_are_none(tmp_path, entries):
    path = tmp_path / "series.csv"
    path.write_text(f'"Time (ps)","Dipole X (e A)"\n# {entries}\n')
    with pytest.raises(InputError, match=r"temperature above 0 in K|expected JSON"):
        formats.read(path)
    path.write_text('"Time (ps)"\n# {"temperature": 60, "units": {"temperature": "C"}}\n1\n')
    with pytest.raises(InputError, match="temperature above 0 in K, got 60 C"):
        formats.read(path)


def test_tables_with_a_mark_of_their_encoding(tmp_path):
    """As Windows writes it: the first column is there."""
    path = tmp_path / "series.csv"
    path.write_bytes(b'\xef\xbb\xbf"Time (ps)","LES Energy (eV)"\r\n0.5,2\r\n')
    assert formats.read(path).get("les_energy").tolist() == [2.0]


# ------------------------------------------------------------------ inputs are never written


def test_spectrum_never_writes_over_its_series(capsys, tmp_path):
    path = series_of(tmp_path / "series.csv", HEADER)
    content = path.read_bytes()
    (tmp_path / "link.csv").symlink_to(path)
    os.link(path, tmp_path / "hard.csv")
    os.link(path, tmp_path / "hard.png")
    other = tmp_path / "spectrum.csv"
    cases = [["-o", path], ["-o", tmp_path / "link.csv"], ["-o", tmp_path / "hard.csv"]]
    if find_spec("matplotlib"):
        cases += [["-o", other, "--plot", tmp_path / "hard.png"]]
        cases += [["-o", tmp_path / "a.png", "--plot", tmp_path / "a.png"]]
    for arguments in cases:
        status, _, err = command(capsys, "spectrum", path, *arguments, "--overwrite")
        assert status == 2, arguments
        assert err.count("\n") == 1
        assert "is the file that FILE reads" in err or "is the table" in err
    assert path.read_bytes() == content
    assert not other.exists()


# ------------------------------------------------------------------ full disks

_FILL = """
import resource, sys
from pathlib import Path
import numpy as np
from openmm_les.analysis import formats
from openmm_les.errors import OutputError
from openmm_les.files.writing import writing

path, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
values = {"dipole": np.arange(3.0), "velocities": np.random.default_rng(0).normal(size=(400, 3))}
file = formats.open_series(path, list(values), range(400))
file.create()
for row in range(10_000):
    try:
        with writing(path):
            file.append(row, 0.5 * row, values)
    except OutputError as error:
        assert "cannot write" in str(error) and "MB free" in str(error), error
        break
found = formats.read(path)
assert found.steps.tolist() == list(range(row)), (row, found.steps)
assert np.allclose(found.get("velocities"), values["velocities"])
file.cut(row - 1)  # and is usable
file.append(99, 99.0, values)
assert formats.read(path).steps.tolist() == [*range(row - 1), 99]
print(row)
"""


_COMMAND = "from openmm_les.cli import main; main()"


def fill(path, limit=0) -> int:
    """Write rows in a child process until there is no space, and the number of them."""
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(path), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    return int(done.stdout)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_row_that_does_not_fit_is_not_there(tmp_path, ending):
    """A limit of the process acts as a full disk does."""
    assert fill(tmp_path / f"series{ending}", MEGABYTE) > 3
    assert [path.name for path in tmp_path.iterdir()] == [f"series{ending}"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_is_full(tmp_path, ending):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root mounts a small disk")
    try:
        assert fill(disk / f"series{ending}") > 3
        assert [path.name for path in disk.iterdir()] == [f"series{ending}"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_spectrum_on_a_full_disk_is_one_line(tmp_path):
    path = series_of(tmp_path / "series.csv", HEADER)
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, "spectrum", path, "-o", tmp_path / "out.csv"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"),
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"cannot write {tmp_path / 'out.csv'}" in done.stderr
    assert "MB free" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["series.csv"]


# ------------------------------------------------------------------ bad intent and damage


def hostile_hdf5(folder):
    import h5py

    def path(name):
        return folder / f"{name}.h5"

    with h5py.File(path("other"), "w") as file:
        file["time"], file["dipole"] = np.zeros(10), np.zeros((10, 3))
    (folder / "secret.bin").write_bytes(bytes(240))
    for name in ("claims", "bomb", "link", "external", "virtual", "group", "texts", "objects"):
        with h5py.File(path(name), "w") as file:
            file["time"] = np.zeros(10)
            if name == "claims":
                file.create_dataset("dipole", (10**10, 3), chunks=(1000, 3), dtype="f8")
            elif name == "bomb":
                file.create_dataset("dipole", data=np.zeros((2**22, 3)), compression="gzip")
            elif name == "link":
                file["dipole"] = h5py.ExternalLink(str(path("other")), "/dipole")
            elif name == "external":
                where = [(str(folder / "secret.bin"), 0, 240)]
                file.create_dataset("dipole", (10, 3), "f8", external=where)
            elif name == "virtual":
                layout = h5py.VirtualLayout((10, 3), "f8")
                layout[:] = h5py.VirtualSource(str(path("other")), "dipole", (10, 3))
                file.create_virtual_dataset("dipole", layout)
            elif name == "group":
                file.create_group("dipole")
            else:
                kind = h5py.string_dtype() if name == "texts" else h5py.vlen_dtype(np.float64)
                file.create_dataset("dipole", (10,), dtype=kind)
        yield path(name)


@needs_h5py
def test_hostile_files_are_refused_before_they_take_memory(tmp_path):
    """In a process with no memory to spare: one line each, with the name of the file."""
    paths = list(hostile_hdf5(tmp_path))
    code = f"""
        import resource, sys
        from openmm_les.analysis import formats
        import h5py
        from openmm_les.errors import InputError
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + {256 * MEGABYTE}
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for path in sys.argv[1:]:
            try:
                print("ACCEPTED", path, formats.read(path).values)
            except InputError as error:
                assert path in str(error), error
                assert "\\n" not in str(error), error
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths) > 5
    assert "ACCEPTED" not in done.stdout


def test_damaged_files_have_one_message(tmp_path):
    """Bytes changed, cut or repeated anywhere: read as numbers, or refused with the name."""
    whole = tmp_path / "whole.csv"
    write(whole, 6, ("dipole", "charges"))
    content, path = whole.read_bytes(), tmp_path / "damaged.csv"
    generator = np.random.default_rng(7)
    told = []
    for _ in range(150):
        damaged = bytearray(content)
        for place in generator.integers(len(damaged), size=generator.integers(1, 6)):
            damaged[place] = generator.integers(256)
        cut = generator.integers(1, len(damaged)) if generator.random() < 0.3 else None
        path.write_bytes(damaged[:cut])
        try:
            formats.read(path)
        except InputError as error:
            told.append(str(error))
    assert len(told) > 50
    assert all(path.name in text and text.isprintable() for text in told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"Time (ps)","Time (ps)"\n1,2\n', "expected one column 'Time \\(ps\\)', got two"),
        ('"Time X (ps)","LES Energy (eV)"\n1,2\n', "expected a column 'Time \\(ps\\)'"),
        ('"Step","Time (ps)"\nnan,2\n', "expected a number of steps in every row"),
        ('"Step","Time (ps)"\n1e300,2\n', "expected a number of steps in every row"),
    ],
)
def test_tables_that_would_be_read_wrong(tmp_path, text, message):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        formats.read(path)


@needs_h5py
def test_arrays_of_other_shapes(tmp_path):
    import h5py

    for name, arrays in {
        "time": {"time": np.zeros((3, 2)), "dipole": np.zeros((3, 3))},
        "step": {"time": np.zeros(3), "step": np.zeros(2)},
        "scalar": {"time": np.zeros(3), "dipole": np.float64(1.0)},
        "unit": {"time": np.zeros(3), "dipole": np.zeros((3, 3))},
    }.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
            if name == "unit":
                file["dipole"].attrs["unit"] = "D"
        with pytest.raises(InputError, match=r"of shape|expected dipole in e A, got D"):
            formats.read(tmp_path / f"{name}.h5")


def test_home_directories_are_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(series_of(tmp_path / "a.csv", HEADER, 5), tmp_path / "b.csv")
    assert len(formats.read("~/b.csv").time) == 5
