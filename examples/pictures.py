"""Pictures of what the examples write; needs matplotlib and mdtraj (the extra ``examples``).

    python pictures.py demo-output

draws the output of 01_md_of_a_peptide.py again.
"""

import sys
from pathlib import Path

import numpy as np

MISSING = "No picture: that takes pip install 'openmm-les[examples]'"

# Where peptides are found: regions of phi and psi and their centres [degrees].
REGIONS = {
    "C5": (-155, 160),
    r"C7$_{eq}$": (-83, 73),
    r"C7$_{ax}$": (70, -60),
    r"$\alpha_R$": (-70, -40),
    r"$\alpha_L$": (60, 45),
}


def draw_md(folder: Path, title: str = "") -> str:
    """Draw energies.csv and trajectory.xtc of a folder; returns what to tell the user."""
    try:
        import mdtraj

        pyplot = _pyplot()
    except ImportError:
        return MISSING
    trajectory = mdtraj.load(str(folder / "trajectory.xtc"), top=str(folder / "minimised.pdb"))
    time, potential, _, temperature = np.loadtxt(
        folder / "energies.csv", delimiter=",", comments="#", ndmin=2
    ).T
    figure, axes = pyplot.subplot_mosaic(
        [["energy", "angles"], ["temperature", "angles"]], figsize=(10, 4.8), layout="constrained"
    )
    _draw_series(axes["energy"], time, potential, "potential energy [kJ/mol]")
    _draw_series(axes["temperature"], time, temperature, "temperature [K]")
    axes["temperature"].axhline(300, color="black", linestyle=":", label="thermostat")
    axes["temperature"].legend(loc="upper left", ncols=2)
    axes["temperature"].set_xlabel("time [ps]")
    axes["energy"].sharex(axes["temperature"])
    figure.suptitle(title)
    points = _draw_angles(axes["angles"], mdtraj, trajectory, time)
    if points is not None:
        figure.colorbar(points, ax=axes["angles"], label="time [ps]", shrink=0.8)
    what = "energy, temperature, and the backbone angles phi and psi"
    return _save(figure, folder / "picture.png", f": {what}")


def draw_dimer(folder: Path) -> str:
    """Draw dimer.csv of a folder; returns what to tell the user."""
    try:
        pyplot = _pyplot()
    except ImportError:
        return MISSING
    table = np.loadtxt(folder / "dimer.csv", delimiter=",", skiprows=1, ndmin=2)
    distance, energy, coulomb, charge, _, dipole = table.T
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(distance, energy, color="tab:blue", label="model")
    left.plot(distance, coulomb, "--", color="tab:red", label="its charges alone")
    left.set(xlabel="O-O distance [A]", ylabel="interaction energy [kJ/mol]")
    left.legend(loc=(0.5, 0.72))
    tail = distance > 5
    inset = left.inset_axes([0.45, 0.12, 0.5, 0.45])
    inset.plot(distance[tail], energy[tail], color="tab:blue")
    inset.plot(distance[tail], coulomb[tail], "--", color="tab:red")
    right.plot(distance, dipole, color="tab:green")
    right.set(xlabel="O-O distance [A]", ylabel="dipole of the two waters [D]")
    other = right.twinx()
    other.plot(distance, charge, color="tab:purple")
    other.set_ylabel("charge of the donor [e]", color="tab:purple")
    right.yaxis.label.set_color("tab:green")
    return _save(figure, folder / "dimer.png")


def draw_embeddings(folder: Path) -> str:
    """Draw embeddings.csv and charges.csv of a folder; returns what to tell the user."""
    try:
        pyplot = _pyplot()
    except ImportError:
        return MISSING
    energies = np.genfromtxt(
        folder / "embeddings.csv", delimiter=",", skip_header=1, usecols=(2, 3, 4, 5)
    )
    charges = np.genfromtxt(folder / "charges.csv", delimiter=",", skip_header=1, usecols=(1, 2, 3))
    names = np.genfromtxt(
        folder / "charges.csv", delimiter=",", skip_header=1, usecols=0, dtype=str
    )
    figure, axes = pyplot.subplot_mosaic(
        [["charges", "charges"], ["energy", "dipole"]], figsize=(10, 7), layout="constrained"
    )
    place = np.arange(len(names))
    axes["charges"].bar(place - 0.2, charges[:, 0], 0.4, label="force field")
    axes["charges"].bar(place + 0.2, charges[:, 1], 0.4, yerr=charges[:, 2], label="latent")
    axes["charges"].set_xticks(place, names, rotation=90)
    axes["charges"].set_ylabel("charge [e]")
    axes["charges"].legend()
    what = {"energy": "Coulomb energy with water [kJ/mol]", "dipole": "dipole of the peptide [D]"}
    for (key, label), columns in zip(what.items(), ((0, 1), (2, 3)), strict=True):
        axes[key].plot(energies[:, columns], ".-")  # in the colours of the charges
        axes[key].axvline(len(energies) / 2 - 0.5, color="black", linestyle=":")
        axes[key].set(xlabel="frame: mechanical | electrostatic embedding", ylabel=label)
    return _save(figure, folder / "embeddings.png")


def draw_polarization(folder: Path) -> str:
    """Draw polarization.csv of a folder; returns what to tell the user."""
    try:
        pyplot = _pyplot()
    except ImportError:
        return MISSING
    time, alone, induced, together, energy = np.loadtxt(
        folder / "polarization.csv", delimiter=",", skiprows=1, ndmin=2
    ).T
    figure, axes = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    axes[0].plot(time, together, label="peptide in water")
    axes[0].plot(time, alone, label="peptide alone")
    axes[0].plot(time, induced, label="induced by the water")
    axes[0].set_ylabel("dipole [D]")
    axes[0].set_ylim(0)
    axes[0].legend()
    axes[1].plot(time, energy, color="tab:red")
    axes[1].set(xlabel="time [ps]", ylabel="energy of polarization [kJ/mol]")
    return _save(figure, folder / "polarization.png")


def draw_infrared(folder: Path) -> str:
    """Draw *_spectrum.csv and peptide_vibrations.csv of a folder; returns what to tell the user."""
    try:
        pyplot = _pyplot()
    except ImportError:
        return MISSING
    names = [name for name in ("peptide", "water") if (folder / f"{name}_spectrum.csv").exists()]
    figure, axes = pyplot.subplots(
        len(names), 2, figsize=(11, 0.6 + 3.4 * len(names)), squeeze=False, layout="constrained"
    )
    for row, name in zip(axes, names, strict=True):
        lines = (folder / f"{name}_spectrum.csv").read_text().splitlines()
        rows = [line for line in lines if not line.startswith("#")][1:]
        wavenumber, infrared, *_, power = np.loadtxt(rows, delimiter=",").T
        row[0].plot(wavenumber, infrared, linewidth=1, label="molecular dynamics")
        row[0].set(title=f"infrared, {name}", ylabel="intensity [km/mol / cm$^{-1}$]")
        row[1].plot(wavenumber, power, linewidth=1, color="tab:green")
        row[1].set(title=f"vibrational states, {name}", ylabel="states / cm$^{-1}$")
        for axis in row:
            axis.set(xlabel="wavenumber [cm$^{-1}$]", xlim=(0, 4000), ylim=(0, None))
    modes = np.loadtxt(folder / "peptide_vibrations.csv", delimiter=",", skiprows=1)
    sticks = axes[0, 0].twinx()
    sticks.vlines(modes[:, 0], 0, modes[:, 1], color="tab:red", linewidth=1, label="harmonic")
    sticks.set_ylabel("harmonic [km/mol]", color="tab:red")
    sticks.set_ylim(0, 1.05 * modes[:, 1].max())
    path = folder / "infrared.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return f"Drew {path}."


def draw_random_charges(folder: Path) -> str:
    """Draw random_charges.csv and learning.csv of a folder; returns what to tell the user."""
    try:
        pyplot = _pyplot()
    except ImportError:
        return MISSING
    names = (folder / "random_charges.csv").read_text().splitlines()[0].split(",")
    charges = np.loadtxt(folder / "random_charges.csv", delimiter=",", skiprows=1, ndmin=2).T
    table = np.genfromtxt(folder / "learning.csv", delimiter=",", skip_header=1, dtype=None)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    # Positive particles first, and exact charges on top of others.
    order = np.argsort(-charges[0], kind="stable")
    styles = dict(zip(names[1:], ("o", "x", "."), strict=True))
    for kind, values in reversed(list(zip(names, charges, strict=True))):
        if kind in styles:
            label = f"{kind}, of {table['f1'].max()} structures"
            left.plot(values[order], styles[kind], markersize=4, label=label)
    left.plot(charges[0][order], color="black", linewidth=0.8, zorder=0, label="true")
    left.set(xlabel="particle", ylabel="charge [e]", ylim=(-2, 2))
    left.legend(fontsize=8)
    for kind in reversed(list(styles)):
        rows = table[table["f0"] == kind]
        right.loglog(rows["f1"], rows["f2"], styles[kind] + "-", label=kind)
    numbers = np.unique(table["f1"])
    right.set_xticks(numbers, numbers)
    right.minorticks_off()
    right.set(xlabel="structures to learn from", ylabel="RMS error of charges [e]")
    return _save(figure, folder / "random_charges.png")


def _pyplot():
    """Matplotlib's pyplot, for files: it opens no window and needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, path: Path, what: str = "") -> str:
    """Write a picture; returns what to tell the user."""
    figure.savefig(path, dpi=150)
    _pyplot().close(figure)
    return f"Drew {path}{what}."


def _draw_series(axis, time, values, label) -> None:
    """A fluctuating quantity and its running mean over a tenth of the run."""
    axis.plot(time, values, color="tab:blue", linewidth=0.5, alpha=0.6)
    width = max(1, len(values) // 10)
    mean = np.convolve(values, np.full(width, 1 / width), mode="valid")
    axis.plot(time[width // 2 :][: len(mean)], mean, color="tab:red", label="running mean")
    axis.set_ylabel(label)
    axis.set_xlim(0, time[-1])


def _draw_angles(axis, mdtraj, trajectory, time):
    """Every phi and psi of the backbone, coloured by time; None where there is no backbone."""
    (_, phi), (_, psi) = mdtraj.compute_phi(trajectory), mdtraj.compute_psi(trajectory)
    if not phi.size or phi.shape != psi.shape:
        axis.text(0.5, 0.5, "no backbone angles", ha="center", transform=axis.transAxes)
        axis.set_axis_off()
        return None
    phi, psi = np.degrees(phi), np.degrees(psi)
    points = axis.scatter(phi.ravel(), psi.ravel(), c=np.repeat(time, phi.shape[1]), s=6)
    ring = {"marker": "o", "markersize": 12, "fillstyle": "none", "linestyle": "none"}
    axis.plot(phi[0], psi[0], color="tab:red", label="start", **ring)
    for name, centre in REGIONS.items():
        axis.plot(*centre, "+", color="black")
        axis.annotate(name, centre, (30, -4), textcoords="offset points", fontsize=12)
    axis.legend(loc="upper right")
    ticks = range(-180, 181, 60)
    axis.set(xlim=(-180, 180), ylim=(-180, 180), xticks=ticks, yticks=ticks, aspect="equal")
    axis.set(xlabel=r"$\phi$ [degrees]", ylabel=r"$\psi$ [degrees]")
    return points


if __name__ == "__main__":
    print(draw_md(Path(sys.argv[1])))
