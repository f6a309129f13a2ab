"""`openmm-les doctor`: real installations, broken ones, and that it survives them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openmm_les import __version__, doctor, versions
from openmm_les.cli import main
from openmm_les.doctor import Finding, checks, probes
from openmm_les.processes.children import Outcome
from openmm_les.versions import REQUIREMENTS

#: Packages of all extras that are not for developers, and a version of each.
EXTRAS = {
    "ase": "3.29.0",
    "h5py": "3.11",
    "matplotlib": "3.9",
    "mdtraj": "1.10",
    "distributed": "2026.8",
    "pymbar": "4.0",
    "numba": "0.61",
    "vesin": "0.6",
    "mace-torch": "0.3.16",
    "nequip": "0.19.1",
    "nequip-allegro": "0.8.3",
    "openmmtorch": "1.6",
}
KEYS = {"name", "status", "text", "fix", "details"}
ALWAYS = {
    "python",
    "openmm-les",
    *REQUIREMENTS,
    *EXTRAS,
    "platforms",
    "plugins",
    "gpu",
    "pythonforce",
    "torchforce",
    "backends",
    "entry-point",
    "cache",
    "cached",
}
HEALTHY = {
    "torch": Outcome({"cuda": None, "hip": None, "devices": []}),
    "openmm": Outcome({"platforms": ["Reference", "CPU"], "failures": []}),
    "opencl": Outcome({"vendor": "", "device": ""}),
    "entry-point": Outcome({"registered": True}),
    "pythonforce": Outcome({"evaluates": True, "copies": True}),
    "torchforce": Outcome({"evaluates": False, "copies": False, "reason": "not installed"}),
}


def run_doctor(*arguments, paths=(), **environment) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with `paths` before all others."""
    path = os.pathsep.join([*map(str, paths), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-c", "from openmm_les.cli import main; main()", "doctor", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def by_name(findings) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def examined(monkeypatch):
    """Examine with given probe outcomes and versions: ``examined(versions, **outcomes)``."""

    def examine(versions=None, driver=Path("/nonexistent"), **outcomes) -> dict[str, Finding]:
        installed = {"openmm": "8.6.1", "openmmml": "1.8", "torch": "2.9.1", "numpy": "2.0.0"}
        installed |= {"click": "8.1.0", "filelock": "3.13", "requests": "2.31.0"}
        installed |= {"pydantic": "2.0", "pyyaml": "6.0", **(versions or {})}
        monkeypatch.setattr(checks, "version_of", installed.get)
        monkeypatch.setattr(probes, "run_all", lambda: {**HEALTHY, **outcomes})
        monkeypatch.setattr(checks, "_NVIDIA_DRIVER", driver)
        return by_name(doctor.examine())

    return examine


# ------------------------------------------------------------------ this installation


def test_json_of_this_installation():
    result = run_doctor("--json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert set(report) == {"openmm_les", "status", "findings"}
    assert report["openmm_les"] == __version__
    assert report["status"] in {"ok", "warning"}
    assert all(set(finding) == KEYS for finding in report["findings"])
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert len(findings) == len(report["findings"])
    assert set(findings) >= ALWAYS
    assert findings["pythonforce"]["status"] == "ok"
    assert "pythonforce" in findings["backends"]["text"]
    assert "Reference" in findings["platforms"]["text"]
    assert findings["torch"]["text"].endswith("build)")


@pytest.mark.torchforce
def test_torchforce_is_tried():
    outcome = probes.run("torchforce")
    assert outcome.failure == ""
    assert outcome.data["evaluates"] is True


def test_requirements_are_those_of_the_package():
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert re.findall(r'"(.*?)"', listed.group(1)) == list(REQUIREMENTS.values())


# ------------------------------------------------------------------ broken installations

# Loaded by every child too, since its folder comes first in PYTHONPATH.
BLOCK = """
import importlib.metadata, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
version = importlib.metadata.version
def pretend(name):
    if name == {name!r}:
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = pretend
"""


@pytest.mark.parametrize("name", ["torch", "openmm"])
def test_missing_package_gets_the_pip_command(tmp_path, name):
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(name=name))
    result = run_doctor("--json", paths=[tmp_path])
    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    assert report["status"] == "error"
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings[name]["status"] == "error"
    assert findings[name]["fix"] == f"pip install '{REQUIREMENTS[name]}'"
    assert findings["backends"]["status"] == "error"
    assert "ModuleNotFoundError" in findings["pythonforce"]["text"]


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "crashes the process (SIGSEGV)",
        ),
        ("raise ImportError('libtorch.so: no')", "fails (ImportError: libtorch.so: no)"),
        ("import sys; sys.exit('gone')", "fails (gone)"),
        ("import os; os._exit(3)", "fails (no message)"),
        ("print('{broken')", "ends without an answer"),
        ("import os; os.write(1, bytes([255, 10])); sys.exit(0)", "ends without an answer"),
    ],
)
def test_every_failure_of_a_probe_is_told(monkeypatch, code, failure):
    monkeypatch.setitem(probes.CODE, "openmm", code)
    assert probes.run("openmm") == Outcome({}, failure)


def test_probe_that_hangs_is_ended(monkeypatch):
    monkeypatch.setitem(probes.CODE, "openmm", "import time; time.sleep(60)")
    monkeypatch.setattr(probes, "SECONDS", 0.5)
    assert probes.run("openmm").failure == "takes longer than 0.5 s"


def test_crash_of_every_probe_is_an_error_finding(monkeypatch):
    for name in probes.CODE:
        monkeypatch.setitem(probes.CODE, name, "import os; os.abort()")
    findings = by_name(doctor.examine())
    assert set(findings) >= ALWAYS - {"plugins"}
    for name in ("torch", "platforms", "pythonforce", "torchforce", "entry-point"):
        assert "crashes the process (SIGABRT)" in findings[name].text
    assert findings["backends"].status == "error"
    assert doctor.worst(list(findings.values())) == "error"


def test_crash_after_the_first_success_is_told(examined):
    outcome = Outcome({"evaluates": True, "copies": False}, "crashes the process (SIGSEGV)")
    findings = examined(pythonforce=outcome)
    assert findings["pythonforce"].status == "warning"
    assert "reading it from XML, crashes the process (SIGSEGV)" in findings["pythonforce"].text
    assert findings["backends"].status == "ok"


def test_failure_of_a_check_is_a_finding(monkeypatch, examined):
    def fails():
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(checks, "_cache", fails)
    findings = examined(openmm=Outcome({}))
    assert findings["cache"].text == "could not be examined (ZeroDivisionError: a bug)"
    assert "KeyError" in findings["platforms"].text
    assert findings["backends"].status == "ok"


# ------------------------------------------------------------------ versions and hardware


def test_nothing_to_say_about_a_healthy_installation(examined):
    findings = examined(EXTRAS)
    assert set(findings) == ALWAYS
    not_ok = {name for name, finding in findings.items() if finding.status != "ok"}
    assert not_ok == {"torchforce"}
    assert not any(finding.fix for finding in findings.values())


def test_old_openmm(examined):
    findings = examined({"openmm": "8.6.0"})
    assert findings["openmm"].fix == "pip install 'openmm>=8.6.1'"
    assert findings["openmmml+openmm"].status == "error"
    assert "not 8.6.0" in findings["openmmml+openmm"].text
    assert "openmmml+openmm" not in examined({"openmm": "8.10"})


def test_missing_extras_get_their_commands(examined):
    findings = examined()
    extras = {"ase": "ase", "h5py": "analysis", "matplotlib": "analysis", "mdtraj": "analysis"}
    extras |= {
        "distributed": "campaign",
        "pymbar": "campaign",
        "mace-torch": "mace",
        "nequip": "nequip",
    }
    for package, extra in extras.items():
        assert findings[package].fix == f"pip install 'openmm-les[{extra}]'"
        assert findings[package].status == "warning"
    assert findings["openmmtorch"].fix is None
    assert findings["nequip-allegro"].text.endswith("exports are not compared with nequip")


def test_every_extra_of_the_package_is_known():
    """A new one has to be told of, or be one of these."""
    of_requirements = {"cuda12", "cuda13"}
    assert set(versions.extras()) == {*checks._without(), *of_requirements}
    for extra in of_requirements:
        names = {re.split(r"[^\w.-]", line)[0] for line in versions.extras()[extra]}
        assert names <= set(REQUIREMENTS)


def test_old_optional_package(examined):
    finding = examined({**EXTRAS, "ase": "3.22.1"})["ase"]
    assert (finding.status, finding.fix) == ("warning", "pip install 'openmm-les[ase]'")
    assert finding.text == "3.22.1 is too old, needed: ase>=3.23"


def test_extras_that_exclude_each_other(examined):
    """Nobody can have both, so that the other one is nothing to mend."""
    findings = examined({"mace-torch": "0.3.16"})
    assert (findings["nequip"].status, findings["nequip"].fix) == ("ok", None)
    assert findings["nequip"].text.endswith("it cannot be where mace-torch is")
    assert examined({"nequip": "0.19.1", "nequip-allegro": "0.8.3"})["mace-torch"].fix is None


def test_openmmtorch_with_others_than_it_was_built_for(examined):
    cuda = Outcome({"cuda": "12.8", "hip": None, "devices": []})
    findings = examined({"openmmtorch": "1.5"}, torch=cuda)
    assert "openmmtorch+torch" not in findings
    copies = findings["openmmtorch+openmm"]
    assert (copies.status, copies.fix) == ("warning", None)
    assert "takes PythonForce" in copies.text

    findings = examined({"openmmtorch": "1.5", "torch": "2.11.0", "openmm": "8.5"}, torch=cuda)
    assert findings["openmmtorch+torch"].fix == "pip install 'torch==2.9.*'"
    assert "openmmtorch+openmm" not in findings

    for version in ("2.9.1+cpu", "2.9.1"):  # builds of conda do not say so in their version
        findings = examined({"openmmtorch": "1.5", "torch": version})
        command = "pip install --force-reinstall 'torch==2.9.*'"
        assert findings["openmmtorch+torch"].fix == command

    assert not any("+" in name for name in examined({"openmmtorch": "1.6"}))


def test_gpu(examined):
    torch = Outcome({"cuda": "12.8", "hip": None, "devices": ["NVIDIA H200"]})
    findings = examined(torch=torch)
    assert findings["torch"].text == "2.9.1 (CUDA 12.8 build)"
    assert findings["gpu"].text == "NVIDIA H200; OpenMM has no CUDA platform"
    assert findings["gpu"].fix == "pip install 'openmm[cuda12]'"
    openmm = Outcome({"platforms": ["Reference", "CPU", "CUDA"], "failures": []})
    gpu = examined(torch=torch, openmm=openmm)["gpu"]
    assert (gpu.status, gpu.text, gpu.fix) == ("ok", "NVIDIA H200", None)


def test_gpu_that_torch_does_not_see(examined, tmp_path):
    """The NVIDIA driver is loaded: either torch was built without CUDA or they do not match."""
    gpu = examined(driver=tmp_path)["gpu"]
    assert (gpu.status, gpu.fix) == ("warning", "pip install --force-reinstall 'torch>=2.9'")
    cuda = Outcome({"cuda": "12.8", "hip": None, "devices": []})
    gpu = examined(driver=tmp_path, torch=cuda)["gpu"]
    assert (gpu.status, gpu.fix) == ("warning", None)
    assert "torch (CUDA 12.8 build) sees no GPU" in gpu.text


def test_opencl_on_a_cpu(examined, monkeypatch):
    assert "opencl" not in examined()
    pocl = Outcome({"vendor": "Portable Computing Language", "device": "cpu-haswell"})
    monkeypatch.delenv("OPENMM_DEFAULT_PLATFORM", raising=False)
    finding = examined(opencl=pocl)["opencl"]
    assert (finding.status, finding.fix) == ("warning", "export OPENMM_DEFAULT_PLATFORM=CPU")
    assert "OpenCL runs on the CPU here (pocl, cpu-haswell)" in finding.text
    monkeypatch.setenv("OPENMM_DEFAULT_PLATFORM", "CPU")
    finding = examined(opencl=pocl)["opencl"]
    assert (finding.status, finding.fix) == ("ok", None)


@pytest.mark.opencl
def test_the_device_of_opencl_is_found():
    data = probes.run("opencl").data
    assert data["vendor"]
    assert data["device"]


def test_plugins_that_should_load_are_told_apart(examined):
    start = "Error loading library /a/b/"
    absent = (
        start + "libOpenMMOpenCL.so: libOpenCL.so.1: cannot open shared object file",
        start + "libOpenMMRPMDOpenCL.so: libOpenMMOpenCL.so: cannot open shared object file",
        start + "libOpenMMTorchCUDA.so: libc10.so: cannot open shared object file",
    )
    broken = start + "libOpenMMCPU.so: undefined symbol: _ZN6OpenMM"
    platforms = ["Reference"]
    plugins = examined(openmm=Outcome({"platforms": platforms, "failures": absent}))["plugins"]
    assert plugins.status == "ok"
    assert len(plugins.details) == 3
    failures = (*absent, broken)
    plugins = examined(openmm=Outcome({"platforms": platforms, "failures": failures}))["plugins"]
    assert plugins.status == "warning"
    assert plugins.details == ("libOpenMMCPU.so: undefined symbol: _ZN6OpenMM",)


def test_potential_without_entry_point(examined):
    finding = examined(**{"entry-point": Outcome({"registered": False})})["entry-point"]
    assert finding.status == "warning"
    assert finding.fix == "pip install --force-reinstall --no-deps openmm-les"


# ------------------------------------------------------------------ cache and output


def test_cache_that_cannot_be_written(tmp_path, monkeypatch, examined):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "file" / "cache"))
    findings = examined()
    assert findings["cache"].status == "warning"
    assert "OPENMM_LES_CACHE_DIR" in findings["cache"].text
    assert findings["cached"].text == "nothing"


def test_cache_is_listed_and_not_made(tmp_path, monkeypatch, examined):
    folder = tmp_path / "cache"
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(folder))
    assert examined()["cache"].text == f"{folder} (not made yet)"
    assert not folder.exists()
    (folder / "artifacts").mkdir(parents=True)
    (folder / "artifacts" / "abc.les.pt").write_bytes(bytes(1_500_000))
    findings = examined()
    assert findings["cache"].text == f"{folder} (writable)"
    assert findings["cached"].text == "1.5 MB of exported models"
    assert findings["cached"].details == ("artifacts/abc.les.pt  1.5 MB",)


def test_text_is_a_table_with_commands_below(capsys, monkeypatch):
    findings = [
        Finding("python", "ok", "3.11"),
        Finding("ase", "warning", "not installed", "pip install ase"),
        Finding("backends", "error", "none works", "pip install torch", details=("a line",)),
        Finding("torch", "error", "not installed", "pip install torch"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 1
    assert capsys.readouterr().out == (
        "ok  python    3.11\n"
        "--  ase       not installed\n"
        "!!  backends  none works\n"
        "              a line\n"
        "!!  torch     not installed\n"
        "\n"
        "to repair or add what is marked:\n"
        "  pip install torch\n"
        "  pip install ase\n"
    )
    monkeypatch.setattr(doctor, "examine", lambda: findings[:2])
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 0
