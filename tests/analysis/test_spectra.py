"""Spectra against closed forms, and the files that they are made from."""

import csv
import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
from support.series import KELVIN, oscillator, write

from openmm_les.analysis import correlation, formats, spectra
from openmm_les.analysis.series import QUANTITIES, TimeSeries
from openmm_les.analysis.spectra import SpectrumOptions, autocorrelation, spectral_density
from openmm_les.cli import main
from openmm_les.errors import InputError


def series(time, **values) -> TimeSeries:
    return TimeSeries("a series", np.asarray(time), values)


# ------------------------------------------------------------------ spectra


@pytest.mark.parametrize("source", ["current", "dipole"])
@pytest.mark.parametrize("window", spectra.WINDOWS)
def test_a_vibration_has_its_place_width_and_intensity(source, window):
    """Integrated intensity N_A |d mu / dQ|^2 / (12 eps0 c^2): 974.88 km/mol for 1 e^2/u."""
    slope = 0.4
    time, dipole, velocity, direction = oscillator(slope=slope)
    current = slope * velocity[:, None] * direction
    options = SpectrumOptions(
        source=source, window=window, resolution=20.0, spacing=0.5, max_wavenumber=1e5
    )
    spectrum = spectra.compute(series(time, dipole=dipole, current=current), options)
    wavenumber, infrared = spectrum.wavenumber, spectrum.infrared
    peak = wavenumber[np.argmax(infrared)]
    assert peak == pytest.approx(1650.0, abs=1.0)
    high = wavenumber[infrared > infrared.max() / 2]
    assert high[-1] - high[0] == pytest.approx(20.0, abs=1.5)
    area = spectra.integral(wavenumber, infrared)
    assert area == pytest.approx(974.88 * slope**2, rel=5e-3)


def test_density_of_states_counts_degrees_of_freedom():
    time, _, one, _ = oscillator(1000.0)
    _, _, other, _ = oscillator(3000.0, phase=1.0)
    velocities = np.zeros((len(time), 2, 3))
    velocities[:, 0, 0], velocities[:, 1, 2] = one, other
    options = SpectrumOptions(resolution=50.0, max_wavenumber=1e5)
    spectrum = spectra.compute(series(time, velocities=velocities), options)
    assert spectrum.infrared is None
    total = spectra.integral(spectrum.wavenumber, spectrum.power)
    assert total == pytest.approx(2.0, rel=5e-3)
    lower = spectrum.wavenumber < 2000
    half = spectra.integral(spectrum.wavenumber[lower], spectrum.power[lower])
    assert half == pytest.approx(1.0, rel=5e-3)


def test_absorption_of_a_box():
    """Of 1 mol in 1 L, 1 km/mol for 1/cm is 100 L/mol/cm times ln-based absorbance: 100 / cm."""
    time, dipole, *_ = oscillator()
    volume = 1.0 / 0.602214076  # nm^3 a molecule at 1 mol/L
    values = {"dipole": dipole, "volume": np.full(len(time), volume)}
    spectrum = spectra.compute(series(time, **values))
    np.testing.assert_allclose(spectrum.absorption, 100 * spectrum.infrared, rtol=1e-6)
    given = spectra.compute(series(time, **values), SpectrumOptions(volume=2 * volume))
    np.testing.assert_allclose(given.absorption, 50 * spectrum.infrared, rtol=1e-6)


def test_quantum_corrections():
    """Factors of the classical spectrum at h nu = k T ln 4, where exp(x) = 4."""
    x = np.array([math.log(4.0)])
    expected = {
        "harmonic": 1.0,
        "standard": 1.2 / math.log(4.0),  # 2 tanh(x / 2) / x
        "schofield": 1.5 / math.log(4.0),  # 2 sinh(x / 2) / x
        "none": 0.75 / math.log(4.0),  # (1 - exp(-x)) / x
    }
    for name, value in expected.items():
        assert spectra.QUANTUM_CORRECTIONS[name](x)[0] == pytest.approx(value), name
    # All are 1 in the classical limit, and the factor is applied at the right frequency.
    time, dipole, *_ = oscillator(KELVIN * 0.695034800 * math.log(4.0))
    found = {
        name: spectra.compute(
            series(time, dipole=dipole),
            SpectrumOptions(quantum_correction=name, resolution=5.0, temperature=KELVIN),
        ).infrared.max()
        for name in expected
    }
    for name, value in expected.items():
        assert found[name] / found["harmonic"] == pytest.approx(value, rel=2e-3)


def test_slow_rotation_of_a_large_dipole_stays_where_it_is():
    """Multiplied by the squared frequency, what leaks out of its band would cover the rest."""
    time, dipole, *_ = oscillator(3500.0, slope=0.02)
    turning = 2.0 * np.stack([np.cos(time), np.sin(time), 0 * time], axis=1)
    spectrum = spectra.compute(series(time, dipole=dipole + turning + [0.0, 0.0, 50.0]))
    beyond = spectrum.wavenumber > 500
    peak = spectrum.wavenumber[beyond][np.argmax(spectrum.infrared[beyond])]
    assert peak == pytest.approx(3500.0, abs=2.0)


# ------------------------------------------------------------------ correlation functions


def test_autocorrelation_is_the_sum_over_pairs():
    values = np.random.default_rng(1).normal(size=(50, 3))
    direct = [np.mean([values[i] @ values[i + lag] for i in range(50 - lag)]) for lag in range(20)]
    np.testing.assert_allclose(autocorrelation(values, 19), direct, rtol=1e-12, atol=1e-14)


def test_autocorrelation_is_that_of_tidynamics():
    tidynamics = pytest.importorskip("tidynamics", reason="tidynamics is not installed")
    values = np.cumsum(np.random.default_rng(2).normal(size=(1000, 3)), axis=0)
    np.testing.assert_allclose(
        autocorrelation(values, 500), tidynamics.acf(values)[:501], rtol=1e-9
    )


def test_many_components_are_transformed_in_parts(monkeypatch):
    values = np.random.default_rng(3).normal(size=(64, 30))
    whole = autocorrelation(values, 20)
    monkeypatch.setattr(correlation, "_CHUNK", 500)
    np.testing.assert_allclose(autocorrelation(values, 20), whole, rtol=1e-12)


@pytest.mark.parametrize("window", spectra.WINDOWS)
def test_parseval(window):
    """Over all frequencies a spectral density adds up to the mean square, whatever the window."""
    values = np.random.default_rng(4).normal(size=(300, 2))
    correlation = autocorrelation(values, 100)
    interval, number = 2e-3, 512
    density = spectral_density(correlation, interval, window, number)
    both_signs = 2 * density.sum() - density[0] - density[-1]
    mean_square = (values**2).sum(axis=1).mean()
    assert both_signs / (number * interval) == pytest.approx(mean_square, rel=1e-12)


def test_white_noise_is_white():
    """Its density is the variance times the interval, at every frequency."""
    values = np.random.default_rng(5).normal(size=(200_000, 1))
    density = spectral_density(autocorrelation(values, 50), 0.5, "hann", 128)
    np.testing.assert_allclose(density, 0.5, rtol=0.06)


# ------------------------------------------------------------------ lengths and mistakes


def test_resolution_follows_from_the_length_unless_it_is_given():
    time, dipole, *_ = oscillator(duration=2.0)
    spectrum = spectra.compute(series(time, dipole=dipole))
    assert "resolution 33.39 cm^-1" in spectrum.settings["window"]
    by_lag = spectra.compute(series(time, dipole=dipole), SpectrumOptions(max_lag=0.5))
    assert "resolution 66.71 cm^-1" in by_lag.settings["window"]
    with pytest.raises(InputError, match=r"resolution: 10 cm\^-1 takes 3336 rows .* from 33.4"):
        spectra.compute(series(time, dipole=dipole), SpectrumOptions(resolution=10.0))


def test_rows_that_are_too_rare_are_told(caplog):
    time, dipole, *_ = oscillator(interval=8e-3)
    spectra.compute(series(time, dipole=dipole))
    assert "rows every 8 fs show vibrations up to 2085 cm^-1" in caplog.text


def test_start_leaves_out_the_beginning():
    time, dipole, *_ = oscillator()
    broken = np.concatenate([np.full((500, 3), np.nan), dipole[500:]])
    found = spectra.compute(series(time, dipole=broken), SpectrumOptions(start=0.5))
    expected = spectra.compute(series(time[500:], dipole=dipole[500:]))
    np.testing.assert_allclose(found.infrared, expected.infrared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": "box"}, "window: expected 'hann' or 'gaussian' or 'none', got 'box'"),
        ({"source": "charges"}, "source: expected 'auto' or 'current' or 'dipole'"),
        ({"quantum_correction": "egelstaff"}, "quantum_correction: expected 'harmonic' or"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0.0"),
        ({"resolution": float("nan")}, "resolution: expected a number above 0, got nan"),
        ({"resolution": 5.0, "max_lag": 1.0}, "expected one of them"),
    ],
)
def test_wrong_options(change, message):
    with pytest.raises(InputError, match=message):
        SpectrumOptions(**change)


def test_wrong_series():
    time, dipole, *_ = oscillator(duration=1.0)
    gap = np.delete(np.arange(len(time)), 70)
    double = np.insert(time, 20, time[20])
    broken = dipole.copy()
    broken[40, 1] = np.inf
    cases = [
        (series(time[gap], dipole=dipole[gap]), "0.002 ps after row 70 and 0.001 ps elsewhere"),
        (series(double, dipole=dipole), "equal intervals of time, got 0 ps after row 21"),
        (series(time[:10], dipole=dipole[:10]), "expected at least 16 rows, got 10"),
        (series(time, dipole=broken), "finite numbers for dipole, got NaN or infinity in row 41;"),
        (series(time, charges=dipole), "expected the quantity current .* got charges"),
    ]
    for wrong, message in cases:
        with pytest.raises(InputError, match=message):
            spectra.compute(wrong)
    with pytest.raises(InputError, match="expected the quantity current"):
        spectra.compute(series(time, dipole=dipole), SpectrumOptions(source="current"))


# ------------------------------------------------------------------ files

ENDINGS = [
    ".csv",
    pytest.param(".h5", marks=pytest.mark.skipif(find_spec("h5py") is None, reason="needs h5py")),
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_give_back_what_was_written(tmp_path, ending):
    path = tmp_path / f"series{ending}"
    _, rows = write(path, 7)
    found = formats.read(path)
    np.testing.assert_array_equal(found.steps, 10 * np.arange(1, 8))
    np.testing.assert_allclose(found.time, 0.005 * np.arange(1, 8), rtol=1e-9)
    assert found.atoms == (4, 0, 7)
    assert set(found.values) == set(QUANTITIES)
    for name in QUANTITIES:
        np.testing.assert_allclose(found.get(name), [row[name] for row in rows], rtol=1e-9)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rows_can_be_taken_back(tmp_path, ending, rows):
    path = tmp_path / f"series{ending}"
    file, written = write(path, 5, ("dipole", "charges"))
    file.cut(rows)
    file.append(99, 0.5, written[0])
    found = formats.read(path)
    assert found.steps.tolist() == [10, 20, 30, 40, 50][:rows] + [99]
    np.testing.assert_allclose(found.get("charges")[-1], written[0]["charges"], rtol=1e-9)


def test_header_of_a_table(tmp_path):
    """That of OpenMM's reporters; others read it."""
    path = tmp_path / "series.csv"
    write(path, 3, ("dipole", "charges"), atoms=(2,))
    first = path.read_text().splitlines()[0]
    assert (
        first
        == '#"Step","Time (ps)","Dipole X (e A)","Dipole Y (e A)","Dipole Z (e A)","Charge 2 (e)"'
    )
    assert np.loadtxt(path, delimiter=",").shape == (3, 6)


def test_tables_of_others(tmp_path):
    """Other columns, their order, and a header without the mark do not matter."""
    path = tmp_path / "mine.csv"
    names = "Temperature (K),Dipole Z (e A),Dipole X (e A),Time (ps),Dipole Y (e A)"
    path.write_text(f"{names}\n300,3,1,0.5,2\n301,6,4,1.0,5\n")
    found = formats.read(path)
    np.testing.assert_array_equal(found.get("dipole"), [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(found.time, [0.5, 1.0])
    assert found.steps is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"Step","Time (fs)"\n1,2\n', "expected time in ps, got the column 'Time \\(fs\\)'"),
        ('"Time (ps)","Dipole X (D)"\n1,2\n', "dipole in e A, got the column 'Dipole X \\(D\\)'"),
        ('"Time (ps)","Dipole X (e A)"\n1,2\n', "for dipole, got some of them"),
        ('"Step","Dipole X (e A)"\n1,2\n', "expected a column 'Time \\(ps\\)'"),
        ('"Time (ps)","Charge 0 (e)"\n1,2\n3\n', "expected a table of numbers"),
        ('"Time (ps)"\n1,2\n', "expected 1 columns, as many as in the header, got 2"),
    ],
)
def test_wrong_tables(tmp_path, text, message):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        formats.read(path)


def test_wrong_files(tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in \.csv, \.h5"):
        formats.read(tmp_path / "series.txt")
    with pytest.raises(InputError, match=r"cannot read .*absent\.csv: No such file"):
        formats.read(tmp_path / "absent.csv")
    if find_spec("h5py"):
        (tmp_path / "text.h5").write_text("text")
        with pytest.raises(InputError, match=r"file: cannot read .*text\.h5: OSError"):
            formats.read(tmp_path / "text.h5")


# ------------------------------------------------------------------ the command


def command(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["spectrum", *map(str, arguments)])
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


@pytest.fixture
def vibration(tmp_path):
    """A file with a vibration at 1650/cm."""
    time, dipole, velocity, _ = oscillator()
    path = tmp_path / "vibration.csv"
    names = [f"Dipole {x} (e A)" for x in "XYZ"]
    names += [f"Mass-Weighted Velocity 0 {x} (u^1/2 A/ps)" for x in "XYZ"]
    table = np.column_stack([time, dipole, velocity, np.zeros((len(time), 2))])
    np.savetxt(path, table, delimiter=",", header=",".join(["Time (ps)", *names]), comments="")
    return path


def test_command_writes_table_and_picture(capsys, tmp_path, vibration):
    output, plot = tmp_path / "out.csv", tmp_path / "out.png"
    picture = ["--plot", plot] if find_spec("matplotlib") else []
    status, out, _ = command(capsys, vibration, "-o", output, "--temperature", 300, *picture)
    assert status == 0
    bands = next(line for line in out.splitlines() if line.startswith("strongest bands"))
    assert "1650" in bands
    comments = [line for line in output.read_text().splitlines() if line.startswith("# ")]
    assert "# temperature: 300 K" in comments
    with output.open(newline="") as stream:
        rows = [row for row in csv.reader(stream) if not row[0].startswith("#")]
    names = ["Wavenumber (cm^-1)", "IR Intensity (km/mol/cm^-1)", "Power Spectrum (states/cm^-1)"]
    assert rows[0] == names
    table = np.array(rows[1:], dtype=float)
    assert table[:, 0].max() <= 4500
    assert spectra.integral(table[:, 0], table[:, 2]) == pytest.approx(1.0, rel=0.01)
    if picture:
        assert plot.read_bytes().startswith(b"\x89PNG")
    status, _, err = command(capsys, vibration, "-o", output)
    assert status == 2
    assert "exists" in err


def test_command_prints_json(capsys, tmp_path, vibration):
    status, out, _ = command(capsys, vibration, "-o", tmp_path / "out.csv", "--json")
    assert status == 0
    figures = json.loads(out)
    assert "20000 rows" in figures["source"]
    assert figures["degrees of freedom"] == pytest.approx(1.0, rel=0.01)
    area = figures["integrated intensity (km/mol)"]
    assert area == pytest.approx(974.88, rel=0.01)  # slope 1 e/u^1/2


def test_command_writes_nothing_when_it_fails(capsys, tmp_path, vibration):
    output = tmp_path / "out.csv"
    for wrong in (["--resolution", "0.01"], ["--from", "current"], ["--plot", tmp_path / "a.gif"]):
        status, _, err = command(capsys, vibration, "-o", output, *wrong)
        assert status == 2, wrong
        assert err.count("\n") == 1
        assert not output.exists()
