"""How replicas moved between states, and what the energies of the states are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_les.analysis.means import Statistics, series_statistics
from openmm_les.arrays import FloatArray, IntArray
from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary, read_file
from openmm_les.free_energy.estimate import Estimate, Window, along_lambda
from openmm_les.names import LAMBDA
from openmm_les.repex.checkpoint import ExchangeCheckpoint
from openmm_les.repex.exchange import CHECKPOINT, ENERGIES, LOG, REPLICAS, START
from openmm_les.repex.settings import TEMPERATURE
from openmm_les.simulation.config import load
from openmm_les.units import GAS_CONSTANT

_KIND = Kind(InputError, "exchange", "exchange: {file} is damaged: {reason}")
#: Least acceptance between neighbours.
LEAST_ACCEPTANCE = 0.1
#: Fewest samples of which free energies are computed.
_FEWEST = 10


@dataclass(frozen=True)
class Exchanges:
    """What an exchange of K replicas has done in T iterations."""

    parameter: str  #: Name of what differs between states
    values: tuple[float, ...]  #: Its value in every state
    temperatures: FloatArray  #: Of every state, (K,) [K]
    picoseconds: float  #: Simulated time of an iteration [ps]
    states: IntArray  #: State of every replica in every iteration, (T, K)
    #: Energies in kT of every replica in every state, shape (T, K, K)
    energies: FloatArray


@dataclass(frozen=True)
class Mixing:
    """How well replicas move between states."""

    #: Mean probability to accept an exchange between two states, (K, K); nan on the diagonal
    acceptance: FloatArray
    #: How often a replica is in the state of a row and in that of a column at the next iteration
    transitions: FloatArray
    #: Ways from the first state to the last and back, of each replica, (K,)
    round_trips: IntArray
    problems: tuple[str, ...]  #: One sentence each, with what to do


def read(directory: str | os.PathLike[str]) -> Exchanges:
    """Read what an exchange wrote, up to its last checkpoint.

    Raises:
        InputError: the directory is not that of an exchange, has no iteration, or is damaged.
    """
    folder = Path(directory)
    checkpoint = ExchangeCheckpoint.read(folder / CHECKPOINT)
    if checkpoint is None:
        raise InputError(
            "exchange: expected a directory in which `openmm-les repex run` has done an iteration, "
            f"got {folder}"
        )
    metadata, config = checkpoint.metadata, load(folder / START)
    parameter = next(name for name in (TEMPERATURE, LAMBDA) if name in metadata.settings)
    values = tuple(map(float, metadata.settings[parameter]))
    number = len(values)
    log = _numbers(folder / REPLICAS / LOG, 1, metadata.iteration, number + 2)
    energies = _numbers(folder / REPLICAS / ENERGIES, 0, metadata.iteration, number**2)
    shared = np.full(number, config.temperature)
    return Exchanges(
        parameter=parameter,
        values=values,
        temperatures=np.array(values) if parameter == TEMPERATURE else shared,
        picoseconds=metadata.settings["report_interval"] * config.time_step * 1e-3,
        states=log[:, 2:].astype(np.int64),
        energies=energies.reshape(-1, number, number),
    )


def _numbers(path: Path, header: int, rows: int, columns: int) -> FloatArray:
    with boundary(path, _KIND):
        lines = read_file(path).decode().splitlines()[header : header + rows]
        table = np.array([[float(text) for text in line.split(",")] for line in lines])
        if table.shape != (rows, columns):
            raise Damage(f"expected {rows} rows of {columns} numbers")
        return table


def mixing(exchanges: Exchanges) -> Mixing:
    """Acceptance, transitions and round trips; the energies decide, not single attempts."""
    states, number = exchanges.states, len(exchanges.values)
    acceptance = np.full((number, number), np.nan)
    at = _by_state(exchanges)
    for i in range(number):
        for j in range(i):
            gain = at[:, i, i] + at[:, j, j] - at[:, i, j] - at[:, j, i]
            acceptance[i, j] = acceptance[j, i] = np.exp(np.minimum(0.0, gain)).mean()
    transitions = np.zeros((number, number))
    np.add.at(transitions, (states[:-1].ravel(), states[1:].ravel()), 1.0)
    transitions /= np.maximum(transitions.sum(axis=1, keepdims=True), 1.0)
    trips = np.array([_round_trips(states[:, replica], number - 1) for replica in range(number)])
    return Mixing(acceptance, transitions, trips, tuple(_problems(exchanges, acceptance, trips)))


def _by_state(exchanges: Exchanges) -> FloatArray:
    """Energies in kT of the replica that is in a state, in every state, shape (T, K, K)."""
    replica_of = np.argsort(exchanges.states, axis=1)
    found: FloatArray = np.take_along_axis(exchanges.energies, replica_of[:, :, None], axis=1)
    return found


def _round_trips(states: IntArray, last: int) -> int:
    """Ways of one replica from state 0 to the last one and back."""
    ends = [state for state in states.tolist() if state in (0, last)]
    turns = [state for state, before in zip(ends, [None, *ends], strict=False) if state != before]
    from_first = turns[turns.index(0) :] if 0 in turns else []
    return max(0, (len(from_first) - 1) // 2)


def _problems(exchanges: Exchanges, acceptance: FloatArray, trips: IntArray) -> list[str]:
    found = []
    values = exchanges.values
    for i, accepted in enumerate(np.diag(acceptance, 1)):
        if accepted < LEAST_ACCEPTANCE:
            found.append(
                f"{accepted:.2g} of the exchanges between {values[i]:g} and {values[i + 1]:g} are "
                f"accepted, less than {LEAST_ACCEPTANCE}: put a state in between"
            )
    if trips.sum() < len(values):
        found.append(
            f"{trips.sum()} round trips of {len(values)} replicas, less than one each: run more "
            "steps"
        )
    return found


def energies_of_states(exchanges: Exchanges) -> list[Statistics]:
    """Mean potential energy in each state [kJ/mol], after equilibration."""
    at = _by_state(exchanges)
    kt = GAS_CONSTANT * exchanges.temperatures
    return [series_statistics(kt[k] * at[:, k, k]) for k in range(len(kt))]


def free_energies(exchanges: Exchanges) -> Estimate | None:
    """Free energies along lambda [kJ/mol]; None for temperatures, or with too few iterations."""
    if exchanges.parameter != LAMBDA or len(exchanges.states) < _FEWEST:
        return None
    at, values = _by_state(exchanges), exchanges.values
    temperature = float(exchanges.temperatures[0])
    slope = GAS_CONSTANT * temperature * (at[:, :, -1] - at[:, :, 0]) / (values[-1] - values[0])
    windows = [Window(value, slope[:, k]) for k, value in enumerate(values)]
    return along_lambda(windows, temperature)
