"""A run from its start, or its last checkpoint, to its summary."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import openmm
from openmm import unit

from openmm_les import catalog
from openmm_les.artifact import Artifact
from openmm_les.errors import InputError, OutputError
from openmm_les.files.writing import write_atomically
from openmm_les.processes.signals import StopRequest, defer_signals
from openmm_les.processes.threads import unmeasured
from openmm_les.simulation import builder, output, report, summary, tuning
from openmm_les.simulation.builder import Phase, State, create_simulation, plan_phases
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.config import RunConfig, warn_of_units
from openmm_les.simulation.hybrid import prepare_hybrid
from openmm_les.simulation.messages import run_terms
from openmm_les.simulation.output import RunDirectory
from openmm_les.simulation.phase import Job, PhaseRun, reported_with_step
from openmm_les.simulation.progress import RunCallbacks, warn_once
from openmm_les.simulation.structures import structure as structures
from openmm_les.simulation.summary import Summary

logger = logging.getLogger(__name__)

#: Largest binding energy of an atom [kJ/mol], 100 eV.
_MAX_BINDING = 1e4
_REMEDY = "put it back, or choose another output directory for a new run"
#: Settings that may differ when a run continues; files are compared by their content.
_MAY_CHANGE = ("structure", "model", "force_field", "system", "output", "steps", "report")


def run(
    config: RunConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: RunCallbacks | None = None,
    more_steps: int = 0,
) -> Summary:
    """See `openmm_les.simulation.run`; `more_steps` with the same model will follow the run."""
    if resume and overwrite:
        raise InputError("--resume and --overwrite: expected one of them, got both")
    with warn_once() as warnings:
        return _run(config, resume, overwrite, callbacks or RunCallbacks(), more_steps, warnings)


def _run(
    config: RunConfig,
    resume: bool,
    overwrite: bool,
    callbacks: RunCallbacks,
    more_steps: int,
    warnings: list[str],
) -> Summary:
    start = structures.read_structure(config.structure)
    # May download for minutes, with the usual signal handlers.
    artifact = catalog.open_model(config.model)
    directory = RunDirectory(config.output)
    with defer_signals() as stop, directory.locked():
        job = Job(config, config, start, artifact, directory, callbacks, stop, warnings=warnings)
        job = replace(job, is_part=more_steps > 0 or directory.is_of_a_campaign())
        existing = directory.existing()
        if existing and not (resume or overwrite):
            raise InputError(
                f"output: {directory.path} holds a run already ({', '.join(existing)}); "
                "continue it with --resume, or replace it with --overwrite"
            )
        checkpoint = directory.checkpoint() if resume else None
        if checkpoint is not None:
            return _resume(job, checkpoint)
        if resume and (results := directory.results()):
            raise InputError(
                f"output: {directory.path} has results ({', '.join(results)}), but no "
                f"{output.CHECKPOINT} from which the run could continue; put it back, or start "
                "again with --overwrite, which deletes them"
            )
        if resume:
            callbacks.message(f"no checkpoint in {directory.path}: starting from the beginning")
        directory.refuse_inputs(_inputs(job))
        return _start(job, more_steps)


def _inputs(job: Job) -> dict[str, Path | str | None]:
    """Files that the run reads, by setting."""
    config = job.config
    files: dict[str, Path | str | None] = {"structure": config.structure, "system": config.system}
    files["model"] = job.artifact.path
    return files | {f"force_field {name}": name for name in config.force_field or ()}


def _start(job: Job, more_steps: int) -> Summary:
    job = _with_force_field(replace(job, config=builder.resolve_config(job.config)))
    sim, energy = _check(job)
    with report.written_on_failure(job):
        state = _minimise(job, sim, energy)
        del sim  # with the buffers of its model, which may fill a GPU
        # A TorchForce cannot grow, and chooses a larger capacity by itself.
        if job.config.max_neighbors is None and job.config.backend == "pythonforce":
            slots = builder.choose_max_neighbors(job.artifact, state, job.hybrid)
            job = replace(job, config=job.config.model_copy(update={"max_neighbors": slots}))
        phases = plan_phases(job.config)
        variant = tuning.choose(job, state, more_steps + sum(phase.steps for phase in phases))
        job = replace(job, variant=variant)
        result = _run_phases(job, phases, state)
    return _with_report(job, result)


def _resume(job: Job, checkpoint: Checkpoint) -> Summary:
    check_same_run(job.requested, job.structure.sha256, job.artifact, checkpoint)
    job = _with_force_field(job)
    _check_force_field(job, checkpoint)
    job.warnings[:0] = [text for text in checkpoint.warnings if text not in job.warnings]
    finished = job.directory / output.SUMMARY
    is_last = checkpoint.phase == "production" and checkpoint.step == job.config.steps
    if is_last and (result := Summary.read(finished)) is not None:
        job.callbacks.message(f"this run is finished: {checkpoint.step} steps are done")
        if not (job.directory / output.REPORT).exists():
            result = _with_report(job, result)
        names = [Path(path).name for path in result.files.values()]
        lost = [name for name in names if not (job.directory / name).exists()]
        if gone := [name for name in lost if name != output.REPORT]:
            logger.warning(
                f"output: {job.directory.path} has no {', '.join(gone)} any more, which this "
                "finished run wrote; put it back, or run again with --overwrite"
            )
        return result
    config = job.config.model_copy(update=checkpoint.chosen)
    job = replace(job, config=config, variant=tuning.recorded(checkpoint))
    _warn_of_changed_environment(checkpoint)
    remaining = plan_phases(job.config)
    while remaining[0].name != checkpoint.phase:
        remaining.pop(0)
    job.callbacks.message(
        f"continuing after step {checkpoint.step} of {remaining[0].steps} of {checkpoint.phase}"
    )
    job.directory.restore(checkpoint)
    _write_config(job)  # `steps` may have grown
    with report.written_on_failure(job):
        result = _run_phases(job, remaining, checkpoint)
    return _with_report(job, result)


def _with_report(job: Job, result: Summary) -> Summary:
    """The summary of a finished run, which names the report once that is there."""
    without = {name: path for name, path in result.files.items() if name != output.REPORT}
    result = replace(result, files=without)
    if report.write(job):
        path = str(job.directory / output.REPORT)
        result = replace(result, files=without | {output.REPORT: path})
        with contextlib.suppress(OutputError):  # no results depend on it
            _write_summary(job, result)
    return result


def _write_summary(job: Job, result: Summary) -> None:
    write_atomically(job.directory / output.SUMMARY, result.to_json().encode())


def _with_force_field(job: Job) -> Job:
    """The job with its ML region and force field, if it has them."""
    complete, parts = prepare_hybrid(job.config, job.structure)
    if parts is not None:
        job.callbacks.message(f"ML region: {parts.selected.text()}")
    return replace(job, structure=complete, hybrid=parts)


@unmeasured()  # the number of threads and the variant of the model change the last bits of results
def _run_phases(job: Job, phases: Sequence[Phase], entry: State | Checkpoint) -> Summary:
    try:
        return _compute(job, phases, entry)
    except OutputError as error:
        if not (job.directory / output.CHECKPOINT).exists():
            raise
        raise OutputError(
            f"{error}; everything up to the last checkpoint is kept: make room, or allow writing, "
            f"then continue with openmm-les run {job.directory.path} --resume"
        ) from error


def _compute(job: Job, phases: Sequence[Phase], entry: State | Checkpoint) -> Summary:
    for phase in phases:
        with PhaseRun(job, phase, entry) as current:
            entry = current.advance()
    current.write_structure(output.FINAL)
    directory, config = job.directory, job.config
    growing = (output.LOG, output.TRAJECTORY, output.RESPONSE, output.INTERPOLATION)
    names = (*growing, output.FINAL, output.CHECKPOINT)
    files = {name: str(directory / name) for name in names if (directory / name).exists()}
    result = summary.summarise(
        directory / output.LOG,
        config.model_dump(mode="json"),
        atoms=_number_of_atoms(job),
        wall_seconds=current.wall_seconds,
        files=files | {output.SUMMARY: str(directory / output.SUMMARY)},
        ml_region=None if job.hybrid is None else job.hybrid.selected,
    )
    _write_summary(job, result)
    return result


@unmeasured()
def _check(job: Job) -> tuple[openmm.app.Simulation, float]:
    """A Simulation of the start structure, and its energy [kJ/mol].

    Raises an InputError if the model does not accept the structure. Nothing is written or deleted
    before it does; then the files of an earlier run are deleted.
    """
    config, start = job.config, job.structure
    warn_of_units(config)
    structures.check_bonds(start.topology, config.ensemble)
    output.check_response(config, start, job.artifact)
    ensemble = plan_phases(config)[0].ensemble
    sim = create_simulation(config, start, job.artifact, ensemble, start.box, hybrid=job.hybrid)
    constrained = builder.constrained_particles(sim)
    structures.check_time_step(start.topology, config.time_step, constrained)
    builder.set_positions(sim, start.positions)
    try:
        before = _potential_energy(sim)
    except openmm.OpenMMException as error:
        reason = run_terms(" ".join(str(error).split()), start.topology)
        raise InputError(f"structure: {config.structure} has no valid energy: {reason}") from error
    _check_energy(job, before, str(config.structure))
    _write_config(job)
    job.directory.clear()
    return sim, before


@unmeasured()
def _minimise(job: Job, sim: openmm.app.Simulation, before: float) -> State:
    """Minimise the energy, which is `before` [kJ/mol]."""
    config, start = job.config, job.structure
    if config.minimise_iterations == 0:
        return State(start.positions, None, start.box)
    job.callbacks.message(f"minimising the energy of {_number_of_atoms(job)} atoms")
    counter = _Iterations(job.stop, config.minimise_iterations)
    with reported_with_step("in the minimisation", job):
        sim.minimizeEnergy(maxIterations=config.minimise_iterations, reporter=counter)
        after = _potential_energy(sim)
    if job.stop:
        job.callbacks.message("stopped in the minimisation; continuing means starting again")
        job.stop.raise_deferred()
    _check_energy(job, after, "the minimised structure")
    job.callbacks.message(f"minimised in {counter} from {before:.1f} to {after:.1f} kJ/mol")
    positions = sim.context.getState(positions=True).getPositions(asNumpy=True)
    job.directory.write_structure(output.MINIMISED, start.topology, positions, start.box)
    return State(positions.value_in_unit(unit.nanometer), None, start.box)


def _check_energy(job: Job, energy: float, what: str) -> None:
    """Refuse energies that no molecules have, such as those of atoms on top of each other."""
    lowest = -_MAX_BINDING * len(job.structure.positions)
    if not lowest < energy < float("inf"):
        raise InputError(
            f"structure: expected an energy that molecules have, got {energy:.4g} kJ/mol for "
            f"{what}, {energy / len(job.structure.positions):.3g} for each atom; atoms overlap, "
            "or overlap their periodic images: check positions and box, whose unit is A"
        )


class _Iterations(openmm.MinimizationReporter):  # type: ignore[misc]
    """Counts iterations, and ends the minimisation at the limit or on a signal.

    OpenMM restarts its own count whenever it increases the stiffness of constraints; each of these
    rounds takes one more iteration after the limit.
    """

    def __init__(self, stop: StopRequest, most: int) -> None:
        super().__init__()
        self.number = 0
        self._stop = stop
        self._most = most

    def report(self, iteration: int, x: object, gradient: object, args: object) -> bool:
        self.number += 1
        return bool(self._stop) or self.number >= self._most

    def __str__(self) -> str:
        more = self.number - self._most
        extra = f" (and {more} more for the constraints)" if more > 0 else ""
        return f"{min(self.number, self._most)}{extra} iterations"


def _number_of_atoms(job: Job) -> int:
    """Number of atoms without virtual sites."""
    return len(structures.real_atoms(job.structure.topology.atoms()))


def _potential_energy(sim: openmm.app.Simulation) -> float:
    energy = sim.context.getState(energy=True).getPotentialEnergy()
    return float(energy.value_in_unit(unit.kilojoule_per_mole))


def _write_config(job: Job) -> None:
    """Write the configuration as requested, without choices for this machine but the seed."""
    job.directory.write_config(job.requested.model_copy(update={"seed": job.config.seed}))


def check_same_run(
    requested: RunConfig, structure_sha256: str, artifact: Artifact, checkpoint: Checkpoint
) -> None:
    """Raise an InputError for a run with other settings or files; steps and report may change."""
    for name, path, expected, got in (
        ("structure", requested.structure, checkpoint.structure_sha256, structure_sha256),
        ("model", artifact.path, checkpoint.model_sha256, artifact.sha256),
    ):
        if got != expected:
            raise InputError(
                f"{name}: the content of {path} is not what this run was started with: expected "
                f"sha256 {expected[:12]}..., got {got[:12]}...; {_REMEDY}"
            )
    changed = []
    for name, value in requested.model_dump(mode="json").items():
        before = checkpoint.requested.get(name, RunConfig.model_fields[name].default)
        if name not in _MAY_CHANGE and value not in (before, checkpoint.resolved.get(name)):
            changed.append(f"{name}: this run was started with {before}, got {value}")
    if changed:
        raise InputError(f"{'; '.join(changed)}; only steps and report may change: {_REMEDY}")
    if checkpoint.phase == "production" and requested.steps < checkpoint.step:
        raise InputError(
            f"steps: expected at least the {checkpoint.step} that this run has done, got "
            f"{requested.steps}"
        )


def _check_force_field(job: Job, checkpoint: Checkpoint) -> None:
    """Refuse to continue with a force field that gives another System."""
    if job.hybrid is None or job.hybrid.sha256 == checkpoint.force_field_sha256:
        return
    files = job.config.force_field or (str(job.config.system),)
    raise InputError(
        f"force_field: the System from {', '.join(files)} is not what this run was started with; "
        f"{_REMEDY}"
    )


def _warn_of_changed_environment(checkpoint: Checkpoint) -> None:
    now, before = builder.environment(), checkpoint.environment
    changed = [f"{k}: {before.get(k)}, now {v}" for k, v in now.items() if before.get(k) != v]
    if changed:
        logger.warning("the run continues, but not bit-identically: %s", "; ".join(changed))
