"""Checks of an installation, with the commands that repair it.

Versions of packages are read from metadata, and packages are only imported in child processes
(`probes`), so that every broken installation can be examined.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openmm_les._version import __version__
from openmm_les.doctor import probes
from openmm_les.processes import openmp
from openmm_les.processes.children import Outcome
from openmm_les.versions import OPENMMTORCH_BUILT_FOR, REQUIREMENTS, extras, numbers_of, version_of

Status = Literal["ok", "warning", "error"]

#: What is missing without each extra; others have no package of their own, or are for developers.
_WITHOUT = {
    "cpu": "MACE-LES models are slower on a CPU",
    "ase": "no ASE calculator",
    "analysis": "no pictures, no HDF5 files, no selections in MDTraj's language",
    "campaign": "no campaigns of many runs, no statistical errors",
    "examples": "one of the examples does not run",
    "torchforce": "no TorchForce",
}
#: Extras that cannot be installed together, and the package of the other one.
_EXCLUDED_BY = {"mace": "nequip", "nequip": "mace-torch"}
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_DRIVERS = re.compile(r"lib(OpenCL|cuda|nvrtc|amdhip64|hiprtc)\.so")


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str  #: What was checked; does not change between releases
    #: ``'ok'``, ``'warning'`` (works without it) or ``'error'`` (simulations do not run)
    status: Status
    text: str  #: The result
    fix: str | None = None  #: The command that repairs it, or None
    details: tuple[str, ...] = ()  #: More lines, such as the cached files


def examine() -> list[Finding]:
    """Run all checks, which takes seconds; never raises: a check that fails is a finding."""
    try:
        outcomes = probes.run_all()
    except Exception as error:
        outcomes = {name: Outcome(failure=f"could not be tried ({error})") for name in probes.CODE}
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": lambda: _packages(outcomes["torch"]),
        "extras": _extras,
        "combinations": lambda: _combinations(outcomes["torch"]),
        "platforms": lambda: _platforms(outcomes["openmm"]),
        "opencl": lambda: _opencl(outcomes["opencl"]),
        "gpu": lambda: _gpu(outcomes),
        "arithmetic": lambda: _arithmetic(outcomes["torch"]),
        "threads": lambda: _threads(outcomes["torch"]),
        "backends": lambda: _backends(outcomes),
        "entry-point": lambda: _entry_point(outcomes["entry-point"]),
        "cache": _cache,
    }
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings.extend(check())
        except Exception as error:
            text = f"could not be examined ({type(error).__name__}: {error})"
            findings.append(Finding(name, "warning", text))
    return findings


def worst(findings: list[Finding]) -> Status:
    """Status of the whole installation."""
    order: list[Status] = ["ok", "warning", "error"]
    return max((each.status for each in findings), key=order.index, default="ok")


# ------------------------------------------------------------------ packages


def _packages(torch: Outcome) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("openmm-les", "ok", f"{__version__} in {Path(__file__).parent}")
    for name, requirement in REQUIREMENTS.items():
        version = version_of(name)
        if version is None:
            text = f"not installed, needed: {requirement}"
            yield Finding(name, "error", text, _install(name))
        elif numbers_of(version) < numbers_of(requirement.partition(">=")[2]):
            text = f"{version} is too old, needed: {requirement}"
            yield Finding(name, "error", text, _install(name))
        elif name == "torch" and torch.failure:
            text = f"{version}: importing it {torch.failure}"
            yield Finding(name, "error", text, _install(name, force=True))
        elif name == "torch":
            yield Finding(name, "ok", f"{version} ({_build(torch)})")
        else:
            yield Finding(name, "ok", version)


def _extras() -> Iterator[Finding]:
    """Optional packages; one that belongs to several extras counts for the first."""
    listed, without = extras(), _without()
    optional: dict[str, tuple[str, str]] = {}
    for extra in without:
        for requirement in listed.get(extra, ()):
            name = re.split(r"[^\w.-]", requirement)[0]
            if name not in REQUIREMENTS:
                optional.setdefault(name, (extra, requirement))
    for name, (extra, requirement) in optional.items():
        yield _optional(name, extra, requirement, without[extra])


def _without() -> dict[str, str]:
    """What is missing without each extra."""
    from openmm_les.networks.registry import families

    found = dict(_WITHOUT)
    for family in families().values():
        if family.extra is not None:
            found.setdefault(family.extra, f"exports are not compared with {family.original}")
    return found


def _optional(name: str, extra: str, requirement: str, without: str) -> Finding:
    version, other = version_of(name), _EXCLUDED_BY.get(extra)
    # No command for TorchForce: its torch may be older than the one here, and PythonForce works
    # with any.
    fix = None if extra == "torchforce" else f"pip install 'openmm-les[{extra}]'"
    if version is None and other and version_of(other):
        text = f"not installed (optional): {without}; it cannot be where {other} is"
        return Finding(name, "ok", text)
    if version is None:
        return Finding(name, "warning", f"not installed (optional): {without}", fix)
    if numbers_of(version) < numbers_of(requirement.partition(">=")[2]):
        return Finding(name, "warning", f"{version} is too old, needed: {requirement}", fix)
    return Finding(name, "ok", version)


def _install(*names: str, force: bool = False) -> str:
    """The command that installs required packages."""
    wanted = " ".join(f"'{REQUIREMENTS[name]}'" for name in names)
    return f"pip install {'--force-reinstall ' if force else ''}{wanted}"


def _build(torch: Outcome) -> str:
    for key, name in (("cuda", "CUDA"), ("hip", "HIP")):
        if torch.data.get(key):
            return f"{name} {torch.data[key]} build"
    return "CPU build"


def _combinations(torch: Outcome) -> Iterator[Finding]:
    """Versions that are known not to work together."""
    openmm, openmmml = version_of("openmm"), version_of("openmmml")
    minimum = REQUIREMENTS["openmm"].partition(">=")[2]
    if openmmml and openmm and numbers_of(openmm) < numbers_of(minimum):
        text = f"openmmml {openmmml} needs openmm {minimum} or newer, not {openmm}"
        yield Finding("openmmml+openmm", "error", text, _install("openmm"))

    release, installed = version_of("openmmtorch"), version_of("torch")
    if release not in OPENMMTORCH_BUILT_FOR:
        return
    built_for, crashes_from = OPENMMTORCH_BUILT_FOR[release]
    text = f"openmmtorch {release} was built for the CUDA build of torch {built_for}"
    if installed and numbers_of(installed)[:2] != numbers_of(built_for):
        fix = f"pip install 'torch=={built_for}.*'"
        yield Finding("openmmtorch+torch", "warning", f"{text}, not for {installed}", fix)
    elif installed and (installed.endswith("+cpu") or torch.data.get("cuda", "") is None):
        # pip takes the CPU build for the same version: it has to be told to replace it.
        fix = f"pip install --force-reinstall 'torch=={built_for}.*'"
        yield Finding("openmmtorch+torch", "warning", f"{text}, not for its CPU build", fix)
    if openmm and numbers_of(openmm)[:2] >= numbers_of(crashes_from):
        text = (
            f"with openmmtorch {release} and openmm {openmm} the process crashes when a System "
            "with a TorchForce is copied or read from XML; backend='auto' takes PythonForce"
        )
        yield Finding("openmmtorch+openmm", "warning", text)


# ------------------------------------------------------------------ what works


def _platforms(openmm: Outcome) -> Iterator[Finding]:
    if openmm.failure:
        fix = _install("openmm", force=version_of("openmm") is not None)
        yield Finding("platforms", "error", f"importing openmm {openmm.failure}", fix)
        return
    yield Finding("platforms", "ok", ", ".join(openmm.data.get("platforms", [])))
    library = re.compile(r"Error loading library \S*/")
    failures = tuple(library.sub("", text) for text in openmm.data["failures"])
    # Plugins for absent hardware always fail; those of openmm-torch fail until torch is imported.
    unexpected = tuple(
        text for text in failures if not _DRIVERS.search(text) and not _follows(text, failures)
    )
    if unexpected:
        text = f"{len(unexpected)} of OpenMM's plugins cannot be loaded"
        yield Finding("plugins", "warning", text, details=unexpected)
    elif failures:
        text = f"{len(failures)} for hardware or drivers that are not here, or waiting for torch"
        yield Finding("plugins", "ok", text, details=failures)
    else:
        yield Finding("plugins", "ok", "all loaded")


def _opencl(opencl: Outcome) -> Iterator[Finding]:
    """OpenCL on a CPU through pocl, which OpenMM prefers to its own CPU platform."""
    if opencl.data.get("vendor") != "Portable Computing Language":
        return
    device = opencl.data.get("device", "")
    default = os.environ.get("OPENMM_DEFAULT_PLATFORM", "OpenCL")
    text = f"OpenCL runs on the CPU here (pocl, {device}), where OpenMM's energy minimiser crashes"
    if default == "OpenCL":
        text += "; OpenMM takes it for every Context that names no platform"
        yield Finding("opencl", "warning", text, "export OPENMM_DEFAULT_PLATFORM=CPU")
    else:
        yield Finding("opencl", "ok", f"{text}; the default platform is {default}")


def _follows(text: str, failures: tuple[str, ...]) -> bool:
    """Whether a plugin failed because another one did, or belongs to openmm-torch."""
    library, _, reason = text.partition(": ")
    failed = {failure.partition(": ")[0] for failure in failures}
    return "OpenMMTorch" in library or reason.partition(":")[0] in failed - {library}


def _gpu(outcomes: Mapping[str, Outcome]) -> Iterator[Finding]:
    torch, openmm = outcomes["torch"], outcomes["openmm"]
    devices = torch.data.get("devices", [])
    has_driver = _NVIDIA_DRIVER.exists()
    if torch.failure:
        yield Finding("gpu", "warning", "unknown, since torch does not work")
    elif devices and torch.data.get("cuda") and "CUDA" not in openmm.data.get("platforms", []):
        major = torch.data["cuda"].partition(".")[0]
        text = f"{', '.join(devices)}; OpenMM has no CUDA platform"
        yield Finding("gpu", "warning", text, f"pip install 'openmm[cuda{major}]'")
    elif devices:
        yield Finding("gpu", "ok", ", ".join(devices))
    elif has_driver and _build(torch) == "CPU build":
        text = "there is one, but this torch was built without CUDA"
        yield Finding("gpu", "warning", text, _install("torch", force=True))
    elif has_driver:
        text = f"the NVIDIA driver is there, but torch ({_build(torch)}) sees no GPU: older driver?"
        yield Finding("gpu", "warning", text)
    else:
        yield Finding("gpu", "ok", "none: models run on the CPU")


def _arithmetic(torch: Outcome) -> Iterator[Finding]:
    """Whether the environment makes torch replace float32 in matrix products."""
    precision = torch.data.get("products", "none")
    if precision not in ("none", "ieee"):
        text = (
            f"torch replaces float32 by {precision} in matrix products here "
            "(TORCH_ALLOW_TF32_CUBLAS_OVERRIDE): a PythonForce does without, a TorchForce cannot"
        )
        yield Finding("arithmetic", "warning", text, "unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


def _threads(torch: Outcome) -> Iterator[Finding]:
    """Number of threads, and how they should wait on a shared machine."""
    if "threads" not in torch.data:
        return
    text = f"{torch.data['threads']} for torch, load of the machine {os.getloadavg()[0]:.1f}"
    if torch.data["threads"] > 1 and not openmp.is_chosen():
        text += "; for scripts on a machine that others use too: export OMP_WAIT_POLICY=passive"
    yield Finding("threads", "ok", text)


def _backends(outcomes: Mapping[str, Outcome]) -> Iterator[Finding]:
    works = []
    for name in ("pythonforce", "torchforce"):
        outcome = outcomes[name]
        if outcome.data.get("evaluates"):
            works.append(name)
        if outcome.data.get("copies") and not outcome.failure:
            yield Finding(name, "ok", "evaluates; Systems can be copied and saved as XML")
        elif outcome.data.get("evaluates"):
            reason = outcome.failure or "crashes the process"
            text = f"evaluates; copying a System, or reading it from XML, {reason}"
            yield Finding(name, "warning", text)
        else:
            text = outcome.data.get("reason") or f"trying it {outcome.failure}"
            fix = _install("openmm", "torch") if name == "pythonforce" else None
            yield Finding(name, "warning", text, fix)
    if works:
        yield Finding("backends", "ok", f"{' and '.join(works)} can be used")
    else:
        fix = _install("openmm", "torch", force=True)
        yield Finding("backends", "error", "none works: no simulation can run", fix)


def _entry_point(outcome: Outcome) -> Iterator[Finding]:
    name = "entry-point"
    if outcome.failure:
        text = f"MLPotential('les') {outcome.failure}"
        yield Finding(name, "warning", text, _install("openmmml"))
    elif outcome.data["registered"]:
        yield Finding(name, "ok", "MLPotential('les') is known to openmm-ml")
    else:
        text = "openmm-ml does not know MLPotential('les'): this package is not installed by pip"
        yield Finding(name, "warning", text, "pip install --force-reinstall --no-deps openmm-les")


# ------------------------------------------------------------------ cache


def _cache() -> Iterator[Finding]:
    from openmm_les.artifact import SUFFIX, cache_directory

    folder = cache_directory().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        # Permission bits are not enough, because of root, read-only mounts and full disks.
        with tempfile.TemporaryFile(dir=existing) as stream:
            stream.write(b"x")
        note = "writable" if existing == folder else "not made yet"
        yield Finding("cache", "ok", f"{folder} ({note})")
    except OSError as error:
        text = (
            f"{folder} cannot be written ({error.strerror}): saved Systems depend on where models "
            "are; set OPENMM_LES_CACHE_DIR to a folder that can"
        )
        yield Finding("cache", "warning", text)
    files = sorted(path for path in folder.rglob(f"*{SUFFIX}") if path.is_file())
    sizes = {path.relative_to(folder): path.stat().st_size / 1e6 for path in files}
    lines = tuple(f"{path}  {size:.1f} MB" for path, size in sizes.items())
    text = f"{sum(sizes.values()):.1f} MB of exported models" if files else "nothing"
    yield Finding("cached", "ok", text, details=lines)
