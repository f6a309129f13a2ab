"""A reporter of OpenMM simulations: charges, moments, dipole, polarizability, current."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.analysis.formats import open_series, read
from openmm_les.analysis.series import QUANTITIES, Header
from openmm_les.analysis.series_file import SeriesFile
from openmm_les.analysis.spectra import check_sampling
from openmm_les.arrays import FloatArray
from openmm_les.errors import InputError, OutputError
from openmm_les.evaluation.device import find_device
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.files.locks import Claim
from openmm_les.files.writing import refuse_inputs, user_path, writing
from openmm_les.names import both_spellings
from openmm_les.networks.conditions import option_of
from openmm_les.plugin import observed, reported
from openmm_les.plugin.arguments import read_interval, read_temperature
from openmm_les.plugin.forces.atoms import HYDROGEN
from openmm_les.plugin.forces.cuda_context import torch_context
from openmm_les.plugin.observed import Observed
from openmm_les.plugin.thermostats import temperature_of

logger = logging.getLogger(__name__)


class LESReporter:
    """Writes electric properties of a model while a simulation runs.

    Append it to ``simulation.reporters``. `openmm_les.analysis.formats.read` and
    ``openmm-les spectrum`` read the file. A CSV file has the header of OpenMM's reporters; HDF5 is
    better for quantities of every atom. After each report the file is complete. It records the
    temperature and the model of the simulation.

    The response of the model is evaluated at each report, beside what the simulation does by
    itself. For 22 atoms on one CPU thread (model ``les-demo``, single precision) a report of
    charges and dipole took as long as 1.2 steps, one of the current or Born charges 1.9 steps.

    Models with several latent charges for each atom have no physical ones: of these, only
    `lesEnergy` and `velocities` are reported. Of models with latent moments, charges, dipoles and
    Born charges are of permanent and induced ones together, without the field of MM charges.

    Positions and velocities are those of the State. With leap-frog integrators (Langevin,
    LangevinMiddle, Verlet) velocities are half a step earlier than positions: in the current this
    mixes charges and velocities that are half a step apart, which shifts no line of a spectrum.

    Args:
        file: the output; ends in ``.csv``, ``.h5`` or ``.hdf5``.
        reportInterval: steps between reports. Bonds to hydrogen need reports every 2 to 3 fs.
        model: name, or path of an artifact. None takes model, atoms and link atoms from the
            PythonForce of the simulated System; a TorchForce does not hold them.
        atoms: indices of the atoms that `model` describes; None for all. Molecules must be whole.
        charges: latent charges with their physical sign [e]; the charge of an ML atom includes
            that of its link atom.
        dipole: sum of charges times positions, and of the dipoles of atoms [e A]; not for periodic
            systems. It refers to the origin if the charges do not add up to zero.
        bornCharges: Born effective charges dP_a/dr_b of every atom [e].
        current: J = sum_i Z*_i v_i, the time derivative of the dipole [e A/ps]. Its
            autocorrelation gives the infrared spectrum, periodic or not.
        lesEnergy: the long-range energy of the latent charges [eV]; of an ML region by itself,
            without MM charges.
        velocities: velocities times the square root of the mass [u^1/2 A/ps], for power spectra.
        polarizability: of the whole model, as a volume [A^3], for Raman spectra. This and the next
            four need a model with such moments.
        atomicDipoles: dipoles that atoms have beside their charges [e A].
        quadrupoles: traceless second moments of atoms [e A^2].
        inducedCharges, inducedDipoles: the induced part of charges [e] and atomic dipoles [e A].
        append: continue a file: rows from the step of this simulation on are replaced, so that a
            simulation continued from a checkpoint has every row once.
        precision: precision of the model, ``'single'`` or ``'double'``.
        device: torch device; None takes a GPU where torch has one.
        charge, spin, features: conditions of `model`, as for ``createSystem``.
        temperature: temperature that the file records [K]; None takes that of the thermostat.

    Raises:
        InputError: nothing to report, or a file or interval that cannot be used. What depends on
            the simulation is checked when it begins to step, or at the first report.
        OutputError: the file is no time series, or another process writes it.
    """

    @both_spellings("LESReporter")
    def __init__(
        self,
        file: str | os.PathLike[str],
        reportInterval: int,
        model: str | os.PathLike[str] | None = None,
        *,
        atoms: Iterable[int] | None = None,
        charges: bool = False,
        dipole: bool = False,
        bornCharges: bool = False,
        current: bool = False,
        lesEnergy: bool = False,
        velocities: bool = False,
        polarizability: bool = False,
        atomicDipoles: bool = False,
        quadrupoles: bool = False,
        inducedCharges: bool = False,
        inducedDipoles: bool = False,
        append: bool = False,
        precision: str = "single",
        device: str | None = None,
        charge: float | None = None,
        spin: float | None = None,
        features: Mapping[str, Any] | None = None,
        temperature: Any = None,
    ) -> None:
        wanted = {"dipole": dipole, "current": current, "charges": charges}
        wanted |= {"born_charges": bornCharges, "les_energy": lesEnergy, "velocities": velocities}
        wanted |= {"polarizability": polarizability, "atomic_dipoles": atomicDipoles}
        wanted |= {"quadrupoles": quadrupoles, "induced_charges": inducedCharges}
        wanted |= {"induced_dipoles": inducedDipoles}
        self._names = [name for name, value in wanted.items() if value]
        if not self._names:
            raise InputError(
                "LESReporter: expected something to report, got nothing; give dipole=True, "
                "current=True, velocities=True, polarizability=True or another quantity"
            )
        self._interval = read_interval(reportInterval)
        given = EvaluationOptions(charge=charge, spin=spin, features=features)
        self._conditions = given.conditions
        if model is None:
            _refuse_without_model(atoms, self._conditions)
        self._model_name = model
        self._atoms = atoms
        self._append = append
        self._precision = precision
        self._device = find_device(device)
        self._temperature = read_temperature("temperature", temperature)
        self._path = user_path(file)
        _check_file(self._path, model)
        # Known at the first report.
        self._file: SeriesFile | None = None
        self._observed: Observed
        self._model: SystemModel
        self._root_masses: FloatArray
        self._claim: Claim | None = None
        self._has_warned = False

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:
        """When the next report is due; an OutputError if another process writes the file."""
        if self._claim is None:
            self._prepare(simulation)
        steps = self._interval - simulation.currentStep % self._interval
        include = ["positions"] + ["velocities"] * self._needs_velocities
        return {"steps": steps, "periodic": False, "include": include}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:
        """Write a row; where that fails, the file stays as it was.

        Raises:
            InputError: at the first report, if model, atoms or file do not fit the simulation.
            OutputError: the row cannot be written.
            SimulationError: a structure without a valid response.
        """
        if self._claim is None:
            self._prepare(simulation)
        assert self._claim is not None
        self._claim.check()
        cell = None
        if simulation.topology.getPeriodicBoxVectors() is not None or (
            simulation.system.usesPeriodicBoundaryConditions()
        ):
            vectors = state.getPeriodicBoxVectors(asNumpy=True)
            cell = np.array(vectors.value_in_unit(unit.angstrom))
        positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
        velocities = None
        if self._needs_velocities:
            every = state.getVelocities(asNumpy=True)
            velocities = every.value_in_unit(unit.angstrom / unit.picosecond)
        with torch_context(self._device):  # OpenMM's context may be current
            if self._file is None:
                self._begin(simulation, positions, cell)
            values = self._evaluate(positions, velocities, cell)
        assert self._file is not None
        self._check_temperature(simulation)
        time = state.getTime().value_in_unit(unit.picosecond)
        with writing(self._path):
            self._file.append(simulation.currentStep, time, values)

    def close(self) -> None:
        """Release the file for other writers; after every report it is complete anyway."""
        if self._claim is not None:
            self._claim.release()

    def _prepare(self, simulation: app.Simulation) -> None:
        """Claim the file before the simulation begins, and warn of too long an interval."""
        self._claim = Claim(self._path, self, simulation, takes_over=self._append)
        has_hydrogen = any(atom.element in HYDROGEN for atom in simulation.topology.atoms())
        step = simulation.integrator.getStepSize().value_in_unit(unit.picosecond)
        # An integrator that chooses its steps has none yet.
        if step > 0.0 and has_hydrogen and not reported.FOR_SPECTRA.isdisjoint(self._names):
            check_sampling(self._interval * step)

    def _check_temperature(self, simulation: app.Simulation) -> None:
        """Warn once if the thermostat has another temperature than the file records."""
        now = temperature_of(simulation.context) if self._temperature is None else None
        assert self._file is not None
        recorded = self._file.header.temperature
        if now is None or recorded is None or now == recorded or self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            f"{self._path} says {recorded:g} K, but the thermostat has {now:g} K from step "
            f"{simulation.currentStep} on: take a new file for each temperature"
        )

    @property
    def _needs_velocities(self) -> bool:
        return "current" in self._names or "velocities" in self._names

    def _evaluate(
        self, positions: FloatArray, velocities: FloatArray | None, cell: FloatArray | None
    ) -> dict[str, FloatArray]:
        """All quantities by name, from positions and velocities of the whole System."""
        particles = list(self._observed.particles)
        placed = self._observed.arrange(positions[particles], cell)
        found = reported.evaluate(self._model, self._names, placed, cell)
        if cell is not None:
            found["volume"] = np.asarray(1e-3 * np.linalg.det(cell))
        if velocities is not None:
            velocities = velocities[particles]
            if "current" in self._names:
                found["current"] = np.einsum("iab,ib->a", found["born_charges"], velocities)
            found["velocities"] = self._root_masses[:, None] * velocities
        return found

    def _begin(
        self, simulation: app.Simulation, positions: FloatArray, cell: FloatArray | None
    ) -> None:
        """Find the model and its atoms, and open the file."""
        system = simulation.system
        if self._model_name is None:
            self._observed = observed.in_system(system)
        else:
            self._observed = observed.in_topology(
                self._model_name, simulation.topology, system, self._atoms, self._conditions
            )
        look = self._observed
        reported.check(look.artifact, self._names, "LESReporter")
        if look.periodic and "dipole" in self._names:
            raise InputError(
                "dipole: a periodic system has none, only changes of it; use current=True"
            )
        if self._needs_velocities:
            self._root_masses = np.sqrt(observed.masses(system, look.particles))
        placed = look.arrange(positions[list(look.particles)], cell)
        self._model = SystemModel(
            look.artifact,
            look.numbers,
            periodic=look.periodic,
            cell=cell if look.periodic else None,
            positions=placed.positions,
            precision=self._precision,
            device=self._device,
            features=look.conditions,
        )
        names = [name for name in QUANTITIES if name in self._names]
        if cell is not None:
            names.insert(0, "volume")
        refuse_inputs(self._path, {"model": look.artifact.path})
        header = Header(
            temperature=self._temperature or temperature_of(simulation.context),
            model=look.artifact.path.name,
            model_sha256=look.artifact.sha256,
            charge_sign="physical" if look.artifact.metadata["charge_sign"] else "unknown",
        )
        file = open_series(self._path, names, look.particles, header)
        with writing(self._path):
            if self._append and self._path.exists():
                self._continue(file, simulation.currentStep)
            else:
                file.create()
        self._file = file

    def _continue(self, file: SeriesFile, step: int) -> None:
        """Remove the rows of a file from `step` on; an InputError if it does not fit."""
        series = read(self._path)
        file.check_columns(series)
        file.header = series.header
        if series.steps is None:
            raise InputError(f"append: expected a file with steps, got {self._path} without")
        keep = int((series.steps < step).sum())
        if len(series.steps) and keep == 0:
            raise InputError(
                f"append: expected {self._path} to end before step {step}, got steps "
                f"{series.steps[0]} to {series.steps[-1]}, all of which would be replaced; load "
                "the checkpoint to continue from, or choose another file"
            )
        if keep and series.steps[keep - 1] != step - self._interval:
            last = series.steps[keep - 1]
            logger.warning(f"append: {self._path} has a gap: step {step} comes after step {last}")
        file.cut(keep)


def _refuse_without_model(atoms: Iterable[int] | None, conditions: Mapping[str, Any]) -> None:
    if atoms is not None:
        raise InputError("atoms: this goes with model; without it the System says which atoms")
    for name in conditions:
        raise InputError(f"{option_of(name)}: this goes with model; without it the System says it")


def _check_file(path: Path, model: str | os.PathLike[str] | None) -> None:
    """Refuse a file that cannot be written, or that exists and is no time series."""
    file = open_series(path)  # refuses a wrong name
    if not path.parent.is_dir():
        raise InputError(f"file: the directory {path.parent} does not exist; create it first")
    refuse_inputs(path, {"model": model})
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        is_ours = file.is_ours()
    except Exception:  # another kind of file leads anywhere
        is_ours = False
    if not is_ours:
        raise OutputError(
            f"file: {path} exists and is no time series of LESReporter; choose another name, or "
            "delete it"
        )
