"""XML files of others in `openmm-les run`: nothing in them runs."""

import pickle
from pathlib import Path

import openmm
import pytest
from openmm import app
from support.runs import PEPTIDE

from openmm_les import InputError
from openmm_les.simulation import xml_files


class Hostile:
    """A pickle that writes a file when it is opened."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.fixture
def traces(tmp_path):
    return tmp_path / "code-ran"


@pytest.fixture
def code(traces):
    """XML of a force that runs code when OpenMM decodes it."""
    function = pickle.dumps(Hostile(traces)).hex()
    return (
        f'<Force type="PythonForce" version="2" forceGroup="0" name="P" function="{function}" '
        'usesPeriodic="0"><GlobalParameters/><Particles/></Force>'
    )


def system_with(inside):
    system = openmm.System()
    system.addParticle(1.0)
    system.addForce(openmm.HarmonicBondForce())
    text = openmm.XmlSerializer.serialize(system)
    return text.replace("<Forces>", f"<Forces>{inside}")


def with_variable(inside):
    force = openmm.CustomCVForce("a")
    force.addCollectiveVariable("a", openmm.HarmonicBondForce())
    text = openmm.XmlSerializer.serialize(force).partition("?>")[2]
    before, _, rest = text.partition('<CollectiveVariable name="a">')
    return before + '<CollectiveVariable name="a">' + inside + rest[rest.index("</Collective") :]


def test_the_example_is_dangerous(code, traces):
    """What is refused below runs when OpenMM itself reads it."""
    openmm.XmlSerializer.deserialize(system_with(code))
    assert traces.exists()


@pytest.mark.parametrize(
    "disguise",
    [
        lambda code: system_with(code),
        lambda code: system_with(
            code.replace("<Force ", "<Forse ").replace("</Force>", "</Forse>")
        ),
        lambda code: code,
        lambda code: system_with(with_variable(code)),
        lambda code: system_with(code.replace("PythonForce", "&#80;ythonForce")),
        lambda code: system_with(code.replace("PythonForce", "PlumedForce")),
        lambda code: code.replace("<Force ", "<System ").replace("</Force>", "</System>"),
    ],
    ids=["plainly", "tag", "root", "variable", "entity", "unknown", "root-tag"],
)
def test_code_in_a_system_never_runs(code, traces, tmp_path, disguise):
    path = tmp_path / "system.xml"
    path.write_text(disguise(code))
    with pytest.raises(
        InputError, match=r"^system: expected .*\b(Plumed|Python)Force\b.* in .*xml"
    ):
        xml_files.read_system(path)
    assert not traces.exists()


def test_comments_are_no_hiding_place(code, traces, tmp_path):
    """OpenMM's parser ends a comment at the first ``>``, and takes what follows for elements."""
    path = tmp_path / "system.xml"
    path.write_text(system_with(f"<!-- > {code} -->"))
    assert xml_files.read_system(path).getNumForces() == 1
    assert not traces.exists()


def test_all_forces_of_a_force_field_are_read(tmp_path):
    """Every class that OpenMM serialises without code, inside a CustomCVForce too."""
    system = openmm.System()
    system.addParticle(1.0)
    force = openmm.CustomCVForce("a*f(a)")
    force.addCollectiveVariable("a", openmm.CustomBondForce("r"))
    force.addTabulatedFunction("f", openmm.Continuous1DFunction([0, 1, 2], 0, 1))
    system.addForce(force)
    generalised = openmm.CustomGBForce()
    generalised.addComputedValue("B", "1", openmm.CustomGBForce.SingleParticle)
    generalised.addParticle([])
    system.addForce(generalised)
    for kind in (openmm.NonbondedForce, openmm.CMAPTorsionForce, openmm.RBTorsionForce):
        system.addForce(kind())
    text = openmm.XmlSerializer.serialize(system)
    path = tmp_path / "system.xml"
    path.write_text(text)
    assert openmm.XmlSerializer.serialize(xml_files.read_system(path)) == text


@pytest.mark.parametrize(
    "content",
    [
        "<ForceField><Script>{}</Script></ForceField>",
        "<ForceField><InitializationScript>{}</InitializationScript></ForceField>",
        '<ForceField><NonbondedForce coulomb14scale="1" lj14scale="1" '
        'useDispersionCorrection="{}"/></ForceField>',
    ],
    ids=["script", "initialisation", "evaluated"],
)
@pytest.mark.parametrize("is_included", [False, True])
def test_code_in_a_force_field_never_runs(tmp_path, traces, content, is_included):
    path = tmp_path / "own.xml"
    path.write_text(content.format(f"__import__('os').mkdir('{traces}')"))
    if is_included:
        (tmp_path / "outer.xml").write_text('<ForceField><Include file="own.xml"/></ForceField>')
    given = str(tmp_path / ("outer.xml" if is_included else "own.xml"))
    with pytest.raises(InputError, match=r"^force_field: .*own\.xml holds Python code \("):
        xml_files.refuse_scripts([given, "amber14-all.xml"])
    assert not traces.exists()
    field = app.ForceField(given)  # what OpenMM does with the same file
    if "useDisp" not in content and "Init" not in content:
        pdb = app.PDBFile(str(PEPTIDE))
        field.loadFile("amber14-all.xml")
        field.createSystem(pdb.topology)
    assert traces.exists()


def test_force_fields_of_openmm_may_have_scripts():
    xml_files.refuse_scripts(["charmm36.xml", "charmm36/water.xml", "none.xml"])
