"""The compiled engine: the same answer, or the script and a reason."""

import logging
from functools import partial
from importlib import import_module
from pathlib import Path

import openmm
import pytest
import torch
from support.contexts import assert_same, create_context, create_system, energy_and_forces
from support.gradients import assert_same_results
from support.helpers import dipeptide, water_frame
from torch.jit import _recursive

from openmm_les import artifact as artifacts
from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import InputError
from openmm_les.evaluation.engines.torchscript import script
from openmm_les.evaluation.system_model import SystemModel
from openmm_les.networks import registry

ORACLES = Path(__file__).parents[1] / "oracles"


def large_water():
    return water_frame(0).repeat((2, 2, 1))


def model_of(path, atoms, engine) -> SystemModel:
    periodic = bool(atoms.pbc.all())
    return SystemModel(
        artifacts.load(path),
        atoms.numbers,
        periodic=periodic,
        cell=atoms.cell.array if periodic else None,
        positions=atoms.positions,
        engine=engine,
    )


@pytest.fixture
def pair_artifact(dipeptide_artifact, tmp_path, monkeypatch):
    """A model of the smallest family there is; compilers take a minute for one of MACE."""
    monkeypatch.syspath_prepend(ORACLES)
    (family,) = import_module("pair_family.family").FAMILIES
    monkeypatch.setitem(registry.families(), family.name, family)
    les = artifacts.load(dipeptide_artifact).canonical
    elements = les.hyper["elements"]
    generator = torch.Generator().manual_seed(1)
    size = (len(elements), len(elements))
    state = {
        name: 0.1 * torch.randn(size, generator=generator, dtype=torch.float64)
        for name in ("energies", "charges")
    }
    state["reference_energies"] = les.state["reference_energies"]
    hyper = {"elements": elements, "cutoff": 4.0, "cutoff_order": 3}
    canonical = CanonicalModel("pair", hyper, state, les.les, les.source)
    artifacts.save(canonical, tmp_path / "pair.les.pt", charge_sign=1)
    return tmp_path / "pair.les.pt"


def test_compiled_engine_gives_the_same_forces(pair_artifact, caplog):
    atoms = dipeptide(0)
    systems = [create_system(pair_artifact, atoms, engine=e) for e in ("compile", "torchscript")]
    contexts = [create_context(system, atoms.positions, "Reference") for system in systems]
    with caplog.at_level(logging.INFO, "openmm_les.evaluation.engines"):
        for scale in (1.0, 1.01, 1.02):  # the first call compiles, the others run what it made
            results = []
            for context in contexts:
                context.setPositions(scale * atoms.positions * 0.1)
                results.append(energy_and_forces(context))
            assert_same(*results, "single")
    said = [
        record.message
        for record in caplog.records
        if record.name.startswith("openmm_les.evaluation.engines")
    ]
    assert said == ["compiling the model; this takes a while"]


def test_the_compiler_is_given_one_graph(dipeptide_artifact, monkeypatch, caplog):
    """Of MACE, from which no machine code is made here: only that takes long."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    atoms = dipeptide(0)[:12]
    model, script = (model_of(dipeptide_artifact, atoms, e) for e in ("compile", "torchscript"))
    for scale in (1.0, 1.01):
        assert_same_results(model, script, scale * atoms.positions)
    assert "using TorchScript" not in caplog.text


def test_what_cannot_be_compiled_runs_as_a_script(dipeptide_artifact, caplog):
    atoms = dipeptide(0)[:15]  # not what another test has compiled
    model, script = (model_of(dipeptide_artifact, atoms, e) for e in ("compile", "torchscript"))
    with torch._dynamo.config.patch(recompile_limit=0):
        assert_same_results(model, script, atoms.positions)
    assert "engine='compile' does not work here, using TorchScript: " in caplog.text
    assert_same_results(model, script, 1.01 * atoms.positions)


def test_large_systems_are_not_compiled_for_a_cpu(water_artifact, caplog):
    atoms = large_water()
    model, script = (model_of(water_artifact, atoms, e) for e in ("compile", "torchscript"))
    assert_same_results(model, script, atoms.positions)
    assert "engine='compile' is for at most" in caplog.text


def test_what_engines_there_are(dipeptide_artifact):
    atoms = dipeptide(0)
    with pytest.raises(InputError, match="engine: expected 'auto' or 'torchscript' or 'compile'"):
        create_system(dipeptide_artifact, atoms, engine="jit")
    with pytest.raises(InputError, match="engine='compile' needs a PythonForce"):
        create_system(dipeptide_artifact, atoms, engine="compile", backend="torchforce")
    system = create_system(dipeptide_artifact, atoms, engine="compile")
    assert any(isinstance(force, openmm.PythonForce) for force in system.getForces())


# ------------------------------------------------------------------ scripts


class Marked(torch.nn.Module):
    """Everything that torch looks for in a class, beside `forward`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.parts = torch.nn.ModuleList([torch.nn.Identity()])

    @property
    def twice(self) -> float:
        return 2.0 * self.factor

    @torch.jit._overload_method
    def times(self, x: int) -> int: ...

    @torch.jit._overload_method
    def times(self, x: float) -> float: ...  # noqa: F811

    def times(self, x):  # noqa: F811
        return x * 3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x * self.twice + self.times(1) + self.times(0.5)

    @torch.jit.export
    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        return self(x) + 1.0

    @torch.jit.unused
    def only_in_python(self) -> str:
        return "here"


def test_what_is_kept_of_classes_is_all_of_it():
    """Scripts of the second module of a class are as complete as those of the first."""
    for factor in (1.0, 2.0):
        scripted = script(Marked(factor))
        x = torch.ones(2)
        assert scripted(x).tolist() == [2 * factor + 4.5] * 2
        assert scripted.evaluate(x).tolist() == [2 * factor + 5.5] * 2
        assert scripted.only_in_python() == "here"
        assert len(scripted.parts) == 1
    assert not hasattr(_recursive, "dir")
