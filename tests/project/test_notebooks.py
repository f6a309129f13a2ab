"""Notebooks among the documents: they run, and no output of other code is shown."""

import shutil
from importlib.util import module_from_spec, spec_from_file_location

import pytest
from support.documents import DOCS

pytest.importorskip("myst_nb", reason="the group `docs` is not installed")

pytestmark = [
    pytest.mark.documents,
    pytest.mark.filterwarnings("default"),  # of Jupyter, which the site does not need
]

PAGE = """---
kernelspec: {{name: python3, display_name: Python 3}}
---

# A page

{text}

```{{code-cell}}
:quick: print(1)
print({code})
```
"""


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """The script of the documents, for a repository that consists of one notebook."""
    spec = spec_from_file_location("execute", DOCS / "execute.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    page = tmp_path / "docs" / "tutorials" / "page.nb.md"
    page.parent.mkdir(parents=True)
    model = tmp_path / "les-demo.les.pt"
    shutil.copy(script.MODEL, model)
    for name, value in {"ROOT": tmp_path, "PAGES": [page], "MODEL": model}.items():
        monkeypatch.setattr(script, name, value)
    return script


def test_output_of_every_notebook_is_current():
    spec = spec_from_file_location("execute", DOCS / "execute.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert len(script.PAGES) == 4
    assert script.refused() == ""


def test_output_is_shown_until_code_or_model_change(execute):
    (page,) = execute.PAGES
    answer = "6 * 7, 'by les-demo'"
    page.write_text(PAGE.format(text="A notebook.", code=answer))
    assert execute.unfinished() == [page]
    assert execute.refused() == ""  # it is no part of the site

    execute.keep(page, execute.execute(page, quick=False))
    assert execute.refused() == ""
    (cell,) = execute.cells_of(execute.read(page.read_text()))
    assert cell.outputs[0].text == "42 by les-demo\n"

    page.write_text(PAGE.format(text="Other words.", code=answer))
    assert execute.refused() == ""
    page.write_text(PAGE.format(text="Other words.", code="6 * 8"))
    assert "has output of other code" in execute.refused()
    assert "make notebooks NAMES='page'" in execute.refused()

    page.write_text(PAGE.format(text="Other words.", code=answer))
    execute.MODEL.write_bytes(b"a new model")
    assert "has output of another les-demo" in execute.refused()
    page.write_text(PAGE.format(text="A notebook that only mentions les-demo.", code="6 * 7"))
    execute.keep(page, execute.execute(page, quick=False))
    execute.MODEL.write_bytes(b"and another")
    assert execute.refused() == ""


def test_a_quick_run_is_another_program(execute):
    (page,) = execute.PAGES
    page.write_text(PAGE.format(text="", code="6 * 7"))
    (cell,) = execute.cells_of(execute.execute(page, quick=True))
    assert cell.outputs[0].text == "1\n"


def test_output_does_not_name_the_folder(execute):
    (page,) = execute.PAGES
    page.write_text(PAGE.format(text="", code="__import__('os').path.abspath('a.txt')"))
    (cell,) = execute.cells_of(execute.execute(page, quick=False))
    assert cell.outputs[0].text == "a.txt\n"


def test_large_pictures_are_refused(execute, monkeypatch):
    pytest.importorskip("matplotlib")
    (page,) = execute.PAGES
    draw = "(__import__('matplotlib.pyplot').pyplot.plot([1, 2]))"
    page.write_text(PAGE.format(text="", code=draw))
    notebook = execute.execute(page, quick=False)
    assert 1000 < execute.keep(page, notebook) < execute.PICTURE
    monkeypatch.setattr(execute, "PICTURE", 1000)
    with pytest.raises(SystemExit, match="draw smaller ones"):
        execute.keep(page, notebook)


def test_a_command_that_fails_stops_the_notebook(execute):
    (page,) = execute.PAGES
    page.write_text(
        PAGE.format(text="", code="number := 3") + "\n```{code-cell}\n!exit {number}\n```\n"
    )
    with pytest.raises(SystemExit, match=r"(?s)page.nb.md: an error in code cell 2 of 2.*status 3"):
        execute.execute(page, quick=False)


@pytest.mark.slow
@pytest.mark.mace
@pytest.mark.parametrize("page", sorted(DOCS.glob("tutorials/*.nb.md")), ids=lambda page: page.name)
def test_notebook_runs(execute, page):
    """With the short settings of its cells, from files of the repository alone."""
    for name in ("examples", "training"):
        (execute.ROOT / name).symlink_to(DOCS.parent / name)
    notebook = execute.execute(page, quick=True)
    outputs = [output for cell in execute.cells_of(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
