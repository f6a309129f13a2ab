"""Systems that are saved, moved, copied and shared."""

import copy
import io
import os
import pickle
import pickletools
import shutil
import subprocess
import sys

import numpy as np
import openmm
import pytest
from support.contexts import (
    add_forces,
    assert_same,
    create_context,
    create_system,
    empty_system,
    energy_and_forces,
    evaluate,
    in_fresh_process,
    of_calculator,
)
from support.helpers import dipeptide, topology_from_atoms, water_frame
from support.programs import run_code


def test_xml_round_trip_in_a_fresh_process(water_artifact, tmp_path):
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, precision="double")
    xml = openmm.XmlSerializer.serialize(system)
    expected = energy_and_forces(create_context(system, atoms.positions))
    assert_same(in_fresh_process(tmp_path, xml, atoms.positions), expected)


def test_xml_of_a_subset_keeps_options_and_order(dipeptide_artifact, tmp_path):
    atoms = dipeptide(0)
    order = list(reversed(range(len(atoms))))
    system = empty_system(atoms)
    options = {"precision": "double", "returnEnergyType": "energy", "maxNeighbors": 40}
    add_forces(system, dipeptide_artifact, topology_from_atoms(atoms), order, **options)
    expected = energy_and_forces(create_context(system, atoms.positions))
    assert_same(expected, of_calculator(dipeptide_artifact, atoms))
    xml = openmm.XmlSerializer.serialize(system)
    assert_same(in_fresh_process(tmp_path, xml, atoms.positions, "Reference"), expected)


def test_saved_system_finds_a_moved_artifact(dipeptide_artifact, tmp_path, monkeypatch):
    atoms = dipeptide(0)
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    original = shutil.copy(dipeptide_artifact, tmp_path / "here.les.pt")
    system = create_system(original, atoms, precision="double")
    expected = energy_and_forces(create_context(system, atoms.positions))
    xml = openmm.XmlSerializer.serialize(system)

    # Making the System left a copy in the cache.
    original.rename(tmp_path / "there.les.pt")
    assert_same(in_fresh_process(tmp_path, xml, atoms.positions), expected)

    with pytest.raises(RuntimeError, match=r"here\.les\.pt does not exist.*sha256"):
        in_fresh_process(tmp_path, xml, atoms.positions, cache=tmp_path / "empty")


def test_saved_system_does_not_run_another_model(
    dipeptide_artifact, l2_artifact, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    path = shutil.copy(dipeptide_artifact, tmp_path / "model.les.pt")
    atoms = dipeptide(0)
    xml = openmm.XmlSerializer.serialize(create_system(path, atoms))
    shutil.copy(l2_artifact, path)
    with pytest.raises(RuntimeError, match=r"model\.les\.pt holds another model now"):
        in_fresh_process(tmp_path, xml, atoms.positions, cache=tmp_path / "empty")


def test_xml_holds_no_weights(water_artifact):
    xml = openmm.XmlSerializer.serialize(create_system(water_artifact, water_frame(0)))
    system = openmm.XmlSerializer.deserialize(xml)
    function = next(line for line in xml.splitlines() if "PythonForce" in line)
    assert len(function) < 4000
    pickled = bytes.fromhex(function.split('function="')[1].split('"')[0])
    names = {str(value).split(".")[0] for _, value, _ in pickletools.genops(pickled)}
    assert "openmm_les" in names
    assert "torch" not in names
    assert openmm.XmlSerializer.serialize(system) == xml


#: Packages that a machine lacks: not there, or kept from being imported.
WITHOUT = """
import sys
class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
missing = sys.argv[5].split(",")
if sys.argv[6] == "blocked":
    sys.modules.update(dict.fromkeys(missing))
else:
    sys.meta_path.insert(0, Missing)
"""
TRY_THERE = """
import copy
system = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())
for attempt in range(2):
    try:
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(copy.deepcopy(system), openmm.VerletIntegrator(1), platform)
        context.setPositions([[0, 0, i] for i in range(system.getNumParticles())])
        context.getState(energy=True)
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize("how", ["absent", "blocked"])
@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("openmm_les", "OpenMMException this System needs the Python package openmm-les"),
        ("torch", "OpenMMException this System needs the Python package torch"),
    ],
)
def test_system_read_where_a_package_is_missing(tmp_path, saved_xml, missing, message, how):
    """OpenMM dies of a function that cannot be unpickled; Python has to go on and say why."""
    (tmp_path / "system.xml").write_text(saved_xml)
    code = WITHOUT + "import openmm\n" + TRY_THERE
    if missing == "openmm_les":  # where it is missing a copy cannot be made either
        code = code.replace("copy.deepcopy(system)", "system")
    arguments = [str(tmp_path / "system.xml"), "", "", "", missing, how]
    child = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    told = child.stdout.splitlines()
    assert len(told) == 2
    assert all(line.startswith(message) for line in told), told
    assert all(line.endswith("pip install openmm-les") for line in told)


@pytest.fixture
def saved_xml(dipeptide_artifact):
    return openmm.XmlSerializer.serialize(create_system(dipeptide_artifact, dipeptide(0)))


def test_pickles_name_the_standard_library_alone(dipeptide_artifact):
    """Numbers of numpy among the options, too."""
    options = {
        "maxNeighbors": np.int64(40),
        "ewaldTolerance": np.float64(1e-4),
        "electricField": np.array([0.0, 0.1, 0.0]),
        "forceGroup": np.int64(1),
    }
    system = create_system(dipeptide_artifact, dipeptide(0), **options)
    xml = openmm.XmlSerializer.serialize(system)
    pickled = bytes.fromhex(xml.split('function="')[1].split('"')[0])
    named = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module, name):
            named.add(module)
            return super().find_class(module, name)

    Noting(io.BytesIO(pickled)).load()
    assert named
    assert named <= sys.stdlib_module_names


def test_what_is_not_understood_is_told_at_the_first_call(saved_xml):
    """As of a newer version: a kind or settings that this one does not know."""
    newer = saved_xml.replace(b"model\x94".hex(), b"modem\x94".hex(), 1)
    system = openmm.XmlSerializer.deserialize(newer)
    assert openmm.XmlSerializer.serialize(system) == newer
    context = create_context(system, dipeptide(0).positions)
    with pytest.raises(
        openmm.OpenMMException, match="cannot be read by this version of openmm-les"
    ):
        energy_and_forces(context)


def test_copied_system(water_artifact):
    atoms = water_frame(0)
    system = create_system(water_artifact, atoms, precision="double")
    expected = energy_and_forces(create_context(system, atoms.positions))
    duplicate = copy.deepcopy(system)
    assert_same(energy_and_forces(create_context(duplicate, atoms.positions)), expected)


def test_two_contexts_share_a_system(water_artifact):
    """Contexts of one System share the callable; their structures must not mix."""
    first, second = water_frame(0), water_frame(1)
    system = create_system(water_artifact, first, precision="double")
    contexts = [create_context(system, first.positions), create_context(system, second.positions)]
    contexts[1].setPeriodicBoxVectors(*(second.cell.array * 0.1))
    for _ in range(2):
        for atoms, context in zip((first, second), contexts, strict=True):
            expected = evaluate(water_artifact, atoms, precision="double")
            assert_same(energy_and_forces(context), expected)


COPY = """
import copy, gc, sys
import numpy as np
import openmm

def megabytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

def use(system, positions):
    integrator = openmm.VerletIntegrator(0.0005)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, integrator, platform)
    context.setPositions(positions * 0.1)
    return context.getState(energy=True).getPotentialEnergy()._value

system = openmm.XmlSerializer.deserialize(open(sys.argv[1]).read())
positions = np.load(sys.argv[2])
expected = use(copy.deepcopy(system), positions)
gc.collect()
before = megabytes()
for i in range(50):
    moved = positions + 1e-3 * (i % 2)  # copies do not mind where the others are
    assert abs(use(copy.deepcopy(system), moved) - expected) < 1e-3
gc.collect()
print(megabytes() - before)
"""


def test_copies_share_one_model(dipeptide_artifact, tmp_path):
    """OpenMM never frees what it has unpickled; 50 copies would take 250 MB."""
    atoms = dipeptide(0)
    xml = openmm.XmlSerializer.serialize(create_system(dipeptide_artifact, atoms))
    (tmp_path / "system.xml").write_text(xml)
    np.save(tmp_path / "positions.npy", atoms.positions)
    files = [str(tmp_path / name) for name in ("system.xml", "positions.npy")]
    child = run_code(COPY, *files, folder=tmp_path)
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) < 50


def test_other_settings_are_another_model(dipeptide_artifact, l2_artifact):
    """Shared is what was made of the same model with the same settings alone."""
    atoms = water_frame(0)[:3]
    atoms.set_pbc(False)
    atoms.set_cell(None)
    expected = {}
    for path in (dipeptide_artifact, l2_artifact):
        for precision in ("single", "double"):
            system = create_system(path, atoms, precision=precision)
            expected[path, precision] = energy_and_forces(create_context(system, atoms.positions))
            same = copy.deepcopy(system)
            assert_same(
                energy_and_forces(create_context(same, atoms.positions)), expected[path, precision]
            )
    assert len({energy for energy, _ in expected.values()}) == 4
