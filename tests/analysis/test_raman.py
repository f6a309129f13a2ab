"""Raman spectra against closed forms of harmonic vibrations."""

import json

import numpy as np
import pytest
from scipy import constants
from support.series import KELVIN, oscillator

from openmm_les.analysis import spectra
from openmm_les.analysis.series import QUANTITIES, TimeSeries
from openmm_les.analysis.spectra import SpectrumOptions, integral
from openmm_les.cli import main
from openmm_les.errors import InputError

#: Derivatives of the polarizability by a mass-weighted coordinate [A^2/u^1/2].
SYMMETRIC = 0.7 * np.eye(3)
ANISOTROPIC = np.array([[0.5, 0.2, 0.0], [0.2, -0.3, 0.4], [0.0, 0.4, -0.2]])
#: With means of any size, which no band depends on.
MEAN = np.diag([8.0, 9.0, 11.0])
WIDE = SpectrumOptions(resolution=20.0, max_wavenumber=1e4)


def vibration(*modes) -> TimeSeries:
    """Polarizabilities [A^3] that vibrate: pairs of a wavenumber [1/cm] and a derivative."""
    total = MEAN
    for wavenumber, slope in modes:
        time, dipole, _, direction = oscillator(wavenumber)
        total = total + (dipole @ direction)[:, None, None] * slope
    return TimeSeries("a series", time, {"polarizability": total})


def invariants(slope) -> tuple[float, float]:
    """Squares of the mean and of the anisotropy, from the elements of a tensor (textbooks)."""
    (xx, xy, xz), (_, yy, yz), (_, _, zz) = slope
    squares = (xx - yy) ** 2 + (yy - zz) ** 2 + (zz - xx) ** 2 + 6 * (xy**2 + yz**2 + xz**2)
    return ((xx + yy + zz) / 3) ** 2, squares / 2


@pytest.mark.parametrize("slope", [SYMMETRIC, ANISOTROPIC, SYMMETRIC + ANISOTROPIC])
def test_a_vibration_has_its_place_activity_and_depolarization(slope):
    """45 a'^2 + 7 gamma'^2, and 3 gamma^2 / (45 a^2 + 4 gamma^2): 0 to 3/4."""
    mean, anisotropy = invariants(slope)
    spectrum = spectra.compute(vibration((1650.0, slope)), WIDE)
    found, wavenumber = spectrum.raman, spectrum.wavenumber
    assert wavenumber[found.total.argmax()] == pytest.approx(1650.0, abs=2.0)
    areas = {name.split()[2]: integral(wavenumber, y) for name, y in found.columns().items()}
    expected = {
        "VV": 45 * mean + 4 * anisotropy,
        "VH": 3 * anisotropy,
        "Isotropic": 45 * mean,
        "Anisotropic": 7 * anisotropy,
    }
    scale = 45 * mean + 7 * anisotropy
    for name, value in expected.items():
        assert areas[name] == pytest.approx(value, rel=5e-3, abs=1e-9 * scale), name
    figures = spectrum.figures()
    assert figures["Raman activity (A^4/u)"] == pytest.approx(scale, rel=5e-3)
    ratio = 3 * anisotropy / (45 * mean + 4 * anisotropy)
    place = np.argmin(np.abs(np.array(figures["strongest Raman bands (cm^-1)"]) - 1650))
    assert figures["depolarization ratios"][place] == pytest.approx(ratio, abs=1e-9)
    assert spectrum.infrared is None
    assert spectrum.scattering is None


def test_rotating_the_molecule_changes_nothing():
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    series = vibration((1000.0, SYMMETRIC), (2000.0, ANISOTROPIC))
    turned = turn @ series.get("polarizability") @ turn.T
    found = spectra.compute(series, WIDE).raman
    other = spectra.compute(TimeSeries("b", series.time, {"polarizability": turned}), WIDE).raman
    scale = found.total.max()
    np.testing.assert_allclose(other.isotropic, found.isotropic, atol=1e-12 * scale)
    np.testing.assert_allclose(other.depolarized, found.depolarized, atol=1e-12 * scale)


@pytest.mark.parametrize("wavenumber", [400.0, 3000.0])
def test_cross_section_of_a_vibration(wavenumber):
    """Placzek's formula in SI: pi^2 / eps0^2 (nu0 - nu)^4 h / (8 pi^2 c nu) S / 45 / (1 - e^-x)."""
    mean, anisotropy = invariants(SYMMETRIC + ANISOTROPIC)
    options = SpectrumOptions(resolution=5.0, temperature=KELVIN, laser=532.0)
    spectrum = spectra.compute(vibration((wavenumber, SYMMETRIC + ANISOTROPIC)), options)
    per_volume = 4 * np.pi * constants.epsilon_0 * 1e-30  # C m^2/V in 1 A^3
    slope = per_volume**2 / 1e-20 / constants.atomic_mass  # of A^4/u
    energy = constants.h * constants.c * 100 * wavenumber
    expected = (
        np.pi**2
        / constants.epsilon_0**2
        * (1 / 532e-9 - 100 * wavenumber) ** 4
        * constants.h**2
        / (8 * np.pi**2 * energy)
        / (1 - np.exp(-energy / (constants.k * KELVIN)))
        * slope
        * np.array([45 * mean + 4 * anisotropy, 3 * anisotropy])
        / 45
    )
    near = np.abs(spectrum.wavenumber - wavenumber) < 60
    parts = (spectrum.scattering.polarized, spectrum.scattering.depolarized)
    found = [1e-34 * integral(spectrum.wavenumber[near], part[near]) for part in parts]
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert np.isnan(parts[0]).sum() == (spectrum.wavenumber < 5.0).sum()


def test_quantum_corrections_are_those_of_the_infrared_spectrum():
    """At h nu = k T ln 4, where exp(x) = 4, a correlation function as it is loses (3/4) / ln 4."""
    series = vibration((KELVIN * 0.695034800 * np.log(4.0), SYMMETRIC))
    peaks = [
        spectra.compute(
            series, SpectrumOptions(quantum_correction=name, resolution=5.0, temperature=KELVIN)
        ).raman.total.max()
        for name in ("none", "harmonic")
    ]
    assert peaks[0] / peaks[1] == pytest.approx(0.75 / np.log(4.0), rel=2e-3)


def test_raman_alone_or_beside_other_spectra():
    time, dipole, velocity, _ = oscillator()
    values = {"polarizability": vibration((500.0, SYMMETRIC)).get("polarizability")}
    values |= {"dipole": dipole, "velocities": velocity[:, None, None] * np.eye(3)[0]}
    every = spectra.compute(TimeSeries("all", time, values))
    assert not any(part is None for part in (every.infrared, every.power, every.raman))
    alone = spectra.compute(TimeSeries("all", time, values), SpectrumOptions(raman=True))
    assert alone.infrared is alone.power is None
    np.testing.assert_array_equal(alone.raman.total, every.raman.total)
    without = TimeSeries("some", time, {"dipole": dipole})
    for options in ({"raman": True}, {"laser": 532.0}):
        with pytest.raises(InputError, match="expected the quantity polarizability"):
            spectra.compute(without, SpectrumOptions(**options))
    for laser, message in ((0.0, "above 0, got 0"), (3000.0, "a wavenumber above 4500 cm")):
        with pytest.raises(InputError, match=f"laser: expected .*{message}"):
            SpectrumOptions(laser=laser)


def test_command(capsys, tmp_path):
    """Writes both kinds of columns, and a picture."""
    series = vibration((500.0, ANISOTROPIC))
    path, output, plot = (tmp_path / name for name in ("in.csv", "out.csv", "out.png"))
    names = QUANTITIES["polarizability"].columns([])
    table = np.column_stack([series.time, series.get("polarizability").reshape(-1, 9)])
    header = ",".join(["Time (ps)", *names])
    np.savetxt(path, table, delimiter=",", header=header, comments="", fmt="%.9g")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    flags = ["--raman", "--laser", "532", "--temperature", "300", "--json"]
    with pytest.raises(SystemExit) as stopped:
        main(["spectrum", str(path), "-o", str(output), "--plot", str(plot), *flags])
    assert stopped.value.code == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["laser"] == "532 nm"
    assert figures["infrared"] == "none"
    columns = next(line for line in output.read_text().splitlines() if not line.startswith("# "))
    assert [name.strip('"').rpartition(" (")[0] for name in columns.split(",")] == [
        "Wavenumber",
        *(f"Raman Activity {x}" for x in ("VV", "VH", "Isotropic", "Anisotropic")),
        *(f"Raman Cross Section {x}" for x in ("VV", "VH", "Isotropic", "Anisotropic")),
    ]
    assert plot.read_bytes().startswith(b"\x89PNG")
