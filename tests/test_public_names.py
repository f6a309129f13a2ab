"""What `import openmm_les` offers, and what it does not import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import openmm_les
from openmm_les import catalog


@pytest.mark.parametrize("name", openmm_les.__all__)
def test_every_public_name_is_there(name):
    if name == "LESCalculator":
        pytest.importorskip("ase")
    assert name in dir(openmm_les)
    value = getattr(openmm_les, name)
    assert name == "__version__" or value.__doc__


def test_lazy_names_are_those_that_type_checkers_see():
    """Each is imported for type checkers from where it is loaded at run time."""
    tree = ast.parse(Path(openmm_les.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        name.asname or name.name: (line.module, name.name)
        for line in block.body
        for name in line.names
    }
    assert seen == openmm_les._LAZY
    assert set(seen) < set(openmm_les.__all__)


def test_the_package_imports_nothing_heavy():
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; import openmm_les; dir(openmm_les);"
        "print([m for m in ('torch', 'openmm', 'numpy', 'openmm_les_export') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_model_is_loaded_by_name_and_by_path():
    named = openmm_les.load_model("les-demo")
    assert named.path == catalog.artifact_path("les-demo")
    assert openmm_les.load_model(named.path).sha256 == named.sha256


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'openmm_les' has no attribute 'LESPotential'"):
        openmm_les.LESPotential  # noqa: B018
