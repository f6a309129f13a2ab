"""The programs in `benchmarks` run, and say what they were asked for."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from support.helpers import MODELS, ROOT, SHARED, shared_file

from openmm_les.catalog import artifact_path

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def steps(monkeypatch):
    """Makes the package of the benchmark importable."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.mace
@pytest.mark.slow
def test_ours_and_a_peer_are_measured(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `analysis`)")
    output = tmp_path / "out.json"
    command = [sys.executable, BENCHMARKS / "md_step.py", "--models", "les-demo", "--threads", "1"]
    command += ["--sizes", "22", "--seconds", "0.2", "--device", "cpu", "--output", output]
    command += ["--rows", "openmm-les pythonforce", "mace-torch"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {row["row"]: row for row in json.loads(output.read_text())["rows"]}
    ours, peer = rows["openmm-les pythonforce"], rows["mace-torch"]
    assert ours["force_reference"] == "mace-torch"
    assert 0.0 < ours["force_difference"] < 1e-4
    assert 50 < ours["kernels"] < peer["kernels"]
    for row in (ours, peer):
        step = row["ms_per_step"]
        assert 0.0 < step["fastest"] <= step["low"] <= step["median"] <= step["high"]
        assert row["ns_per_day"] == pytest.approx(86.4 / step["median"])
        assert 1.0 < row["peak_mb"] < 1000.0
    parts = ours["breakdown"]
    assert sum(t for name, t in parts.items() if name != "step") == pytest.approx(parts["step"])
    assert "openmm-les pythonforce is as fast as" in done.stdout
    assert (tmp_path / "out.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("memory_mb", "seconds", "apart", "reason"),
    [
        (1.0, 300.0, None, "over 0.000977 GB"),
        (4e3, 0.01, None, "over 0.01 s"),
        (4e3, 300.0, 0.01, "prepare took over 0.01 s"),
    ],
)
def test_a_row_beyond_its_limits_is_stopped(tmp_path, steps, memory_mb, seconds, apart, reason):
    from step import children, systems
    from step.steps import Case

    structure = tmp_path / "structure.npz"
    systems.save(systems.structure(22), structure)
    artifact = str(artifact_path("les-demo"))
    case = Case("openmm-les pythonforce", artifact, "", str(structure), "cpu", 1)
    child = children.Child(case, memory_mb, seconds)
    try:
        child.wait_until_ready()
        with pytest.raises(children.Stopped, match=f"^{reason}$"):
            child.ask("prepare", str(tmp_path / "forces.npy"), apart=apart)
    finally:
        child.close()


def test_a_row_that_is_stopped_late_keeps_its_times(tmp_path, steps, monkeypatch):
    """Here by its dynamics, which make some 1500 steps."""
    from step import compare, models, report, systems
    from step.rows import rows

    name = "openmm-les pythonforce"
    monkeypatch.setattr(compare, "SLOWEST_TAKEN_APART", 0.0)
    limits = compare.Limits(1, 0.1, 4.0, 600.0, 0.0, with_drift=True, with_large=True)
    comparison = compare.Comparison({name: rows()[name]}, limits, 1, tmp_path)
    ask = compare.Child.ask

    def hurried(child, what, *arguments, apart=None):
        return ask(child, what, *arguments, apart=0.5 if what == "drift" else apart)

    monkeypatch.setattr(compare.Child, "ask", hurried)
    model = models.Model("les-demo", artifact_path("les-demo"), None)
    for size in 22, 45:  # the second one is tried all the same
        (row,) = comparison.measure(model, systems.structure(size), "cpu")
        assert "failed" not in row
        assert row["incomplete"] == "drift took over 0.5 s"
        assert row["ms_per_step"]["median"] > 0.0
        assert row["peak_mb"] > 0.0
        assert "dynamics" not in row
        assert report.line(row).endswith(" (drift took over 0.5 s)")
    assert report.exponents({"rows": [row]}) == {}


def test_products_count_however_they_are_written(steps):
    import torch
    from step.fake_gpu import tally

    def step(a, b, c):
        torch.mm(a, b, out=c)
        torch.addmm(c, a, b)
        c.addmm_(a, b)
        c.unsqueeze(0).baddbmm_(a.unsqueeze(0), b.unsqueeze(0))

    counted = tally(step, torch.nn.Module(), [(3, 4), (4, 5), (3, 5)])
    counts = list(counted.by_operation.values())
    assert [each["float64"] for each in counts] == 4 * [2 * 3 * 4 * 5]
    assert [each["launches"] for each in counts] == 4 * [1]


@pytest.mark.mace
def test_a_step_on_a_gpu_has_few_kernels(steps, tmp_path):
    """Of a molecule, with the architecture of MACELES-OFF; see results/kernel_table.json."""
    import kernel_table
    import torch
    from openmm_les_export import read_model
    from step.models import random_maceles_off
    from step.systems import structure

    from openmm_les.artifact import Artifact

    path = tmp_path / "random.model"
    torch.save(random_maceles_off(), path)
    artifact = Artifact.unsaved(read_model(path), path)
    torch_code, triton = kernel_table.counts_of(artifact, structure(45), operations=1)
    assert 200 < torch_code["launches"] < 335
    assert 100 < triton["launches"] < 205
    assert triton["bytes"] < 0.2 * torch_code["bytes"]
    assert torch_code["float64"] < 0.003 * torch_code["float32"]
    # Kernels leave out products with zero that few operations of torch take along.
    assert 0.6 < triton["float32"] / torch_code["float32"] < 1.0
    (most,) = torch_code["most float64"]
    assert most.startswith("bmm float64")


def test_structures_have_no_bad_contacts(steps):
    from ase.neighborlist import neighbor_list
    from step.systems import structure

    sizes = [len(structure(n)) for n in (24, 50, 192, 1000)]
    assert sizes[0] == 22
    assert sizes[2:] == [192, 1029]
    assert all(a < b for a, b in pairwise(sizes))
    water = structure(1000)
    i, j, distance = neighbor_list("ijd", water, 2.0)
    between = distance[i // 3 != j // 3]
    assert between.min() > 1.4
    assert water.get_volume() / 343 == pytest.approx(29.9)
    assert np.bincount(water.numbers)[[1, 8]].tolist() == [686, 343]


def test_exponents_are_those_of_the_times(steps):
    from step.report import exponents

    rows = [
        {"model": "m", "device": "cpu", "row": "r", "atoms": n, "ms_per_step": {"median": n**1.3}}
        for n in (22, 192, 1029, 5184)
    ]
    rows[0]["ms_per_step"]["median"] = 1e6  # too small a system to count
    assert exponents({"rows": rows}) == {"m, cpu, r": pytest.approx(1.3)}


def test_a_check_of_a_gpu_tells_what_went_wrong(tmp_path):
    """A stage without its device fails piece by piece; one without time is not begun."""
    output = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARKS / "gpu_check.py"), "--carried", str(tmp_path)]
    command += ["--output", str(output), "--device", "cuda:77"]
    for more, status in ((["--minutes", "0.001"], "no time left"), ([], "done")):
        done = subprocess.run([*command, "--stages", "machine", *more], capture_output=True)
        assert done.returncode == 1, done.stderr
        stage = json.loads(output.read_text())["stages"]["machine"]
        assert stage["status"] == status
    assert "failed" in stage["found"]["copy"]
    assert stage["found"]["openmm"]["version"]


# ------------------------------------------------------------------ systems of the LES papers


def test_a_system_of_the_papers_is_computed(tmp_path, steps):
    from published.agreement import agreement
    from published.clusters import clusters
    from published.models import Published

    shared_file(MODELS / "cace_ewald" / "nacl_cluster.pth")
    published = Published(SHARED, tmp_path)
    found = agreement(published, "nacl_cluster")
    assert found["energy"] < 1e-9
    assert found["forces"] < 1e-9
    force, charge, largest = clusters(published, "NaCl cluster").rows
    # The network does not reach from one end to the other, and ends before the sum of charges does.
    assert charge.ours == 0.0
    assert force.ours > 100.0
    assert 0.01 < largest.ours < 0.5


def test_the_page_of_the_papers_shows_what_was_measured(steps):
    from published import tables

    page = (ROOT / "docs" / "reference" / "papers.md").read_text()
    content = json.loads((BENCHMARKS / "results" / "papers.json").read_text())
    assert tables.replaced(page, content) == page
    assert page.count("\n| ") > 30
