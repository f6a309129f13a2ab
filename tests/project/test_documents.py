"""What the documents show works, and what they say of the code is so."""

import dataclasses
import re
import shutil
from importlib.util import module_from_spec, spec_from_file_location
from xml.etree import ElementTree

import openmm
import pytest
from openmm import app
from openmmml import MLPotential
from support import documents
from support.documents import DOCS, PAGES, ROOT, SOURCES
from support.mistakes import Mistakes

from openmm_les import catalog, errors
from openmm_les.errors import ArtifactError, InputError, ModelFileError, OutputError
from openmm_les.plugin.forces.options import ForceOptions

TROUBLESHOOTING = DOCS / "howto" / "troubleshooting.md"
MESSAGES = DOCS / "reference" / "messages.md"
CLI_PAGE = DOCS / "reference" / "cli.md"
MODULES_PAGE = DOCS / "developer" / "modules.md"
#: Pages as comments and docstrings name them.
NAMED = re.compile(r"\bdocs/[\w/-]+\.md\b")
#: Files as pages name them.
FILES = re.compile(r"`([\w/]+\.py)`")
#: Of a page that is read from its beginning to its end.
MOST_WORDS = 2000
#: A message without a longer piece of fixed text, as `NAME: expected X, got Y`, matches anything.
GENERAL = len(": expected ")


def name_of(page) -> str:
    return str(page.relative_to(ROOT))


def run_of(page, needs):
    """A page, with one set of the requirements that its blocks state."""
    marks = [getattr(pytest.mark, need) for need in sorted(needs)]
    return pytest.param(page, needs, marks=marks, id="-".join([name_of(page), *sorted(needs)]))


RUNS = [run_of(page, needs) for page in PAGES for needs in documents.needs_of(page)]


@pytest.fixture
def folder(tmp_path):
    """A place with the files that the pages assume."""
    shutil.copy(catalog.artifact_path("les-demo"), tmp_path / "my.les.pt")
    shutil.copy(ROOT / "training" / "les_demo" / "les-demo.model", tmp_path / "my.model")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


# ------------------------------------------------------------------ snippets


@pytest.mark.documents
@pytest.mark.parametrize(("page", "needs"), RUNS)
def test_page_runs(folder, page, needs):
    documents.run_page(page, needs, folder)


def test_a_page_that_does_not_run_is_noticed(folder):
    page = folder / "page.md"
    for wrong in ("```python\nassert False\n```", "```\nopenmm-les inspect none.les.pt\n```"):
        page.write_text(f"text\n{wrong}\n")
        with pytest.raises(AssertionError):
            documents.run_page(page, frozenset(), folder)
    page.write_text("text\n\n<!-- needs: gpu -->\n```python\nassert False\n```\n")
    documents.run_page(page, frozenset(), folder)
    assert documents.needs_of(page) == [frozenset({"gpu"})]
    page.write_text("text\n\n<!-- run by: tests/test_cli.py -->\n```python\nassert False\n```\n")
    assert documents.needs_of(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_are_not_run_exist(page):
    """Extras of pip, targets of make, files of python."""
    project = (ROOT / "pyproject.toml").read_text()
    optional = re.search(r"\[project\.optional-dependencies\]\n(.*?)\n\[", project, re.DOTALL)[1]
    known = set(re.findall(r"^(\w+) = \[", optional, re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for extras in re.findall(r"openmm-les\[([\w,-]+)\]", page.read_text()):
        assert set(extras.split(",")) <= known
    for block in documents.blocks(page):
        assert (ROOT / block.elsewhere).exists()
        if block.elsewhere.endswith(".md"):
            assert set(block.shell_lines()) <= documents.lines_run_by(ROOT / block.elsewhere)
        for line in block.shell_lines():
            arguments = line.split("#")[0].split()[1:]
            command = documents.program(line)
            assert command in ("openmm-les", *documents.OTHER_COMMANDS), line
            if command == "make":
                assert {word for word in arguments if "=" not in word} <= targets, line
            if command.startswith("python"):
                assert arguments[0].startswith("-") or (ROOT / arguments[0]).is_file(), line


def test_workflows_call_targets_that_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        calls = re.findall(r"run: make (.+)", workflow.read_text())
        assert calls
        for call in calls:
            assert {word for word in call.split() if "=" not in word} <= targets, call


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    """Files, and headings in files (as the forge and Sphinx name them)."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def anchors(page) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_that_code_names_exist():
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.md")]
    named = {(file, page) for file in files for page in NAMED.findall(file.read_text())}
    assert len(named) > 5
    assert not [(name_of(file), page) for file, page in named if not (ROOT / page).exists()]


def test_files_that_pages_name_exist():
    """`plugin/mixed/create.py` and its like, with as much of the path as the page gives."""
    folders = ("openmm_les", "export", "tests", "docs", "examples", "benchmarks", "training")
    files = {f"/{name_of(file)}" for folder in folders for file in (ROOT / folder).rglob("*.py")}
    pages = (page for page in PAGES if page != MODULES_PAGE)
    named = {(page, file) for page in pages for file in FILES.findall(page.read_text())}
    assert len(named) > 30
    assert not [
        (name_of(page), file)
        for page, file in named
        if not re.search("FAMILY|NAME", file) and not any(f.endswith(f"/{file}") for f in files)
    ]


def test_pages_are_short_enough_to_read():
    """Reference pages are looked up, not read, and one page is a list of the modules."""
    pages = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    read = {page for page in pages if page.parts[len(DOCS.parts)] != "reference"} - {MODULES_PAGE}
    lengths = {name_of(page): len(page.read_text().split()) for page in read}
    assert len(lengths) > 40
    assert not {name: words for name, words in lengths.items() if words > MOST_WORDS}


def test_every_option_of_createsystem_is_in_the_table():
    page = (DOCS / "reference" / "options.md").read_text()
    table = re.search(r"\| option \|.*?\n\n", page, re.DOTALL)[0]
    names = [field.name for field in dataclasses.fields(ForceOptions)]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(names)


# ------------------------------------------------------------------ pages that scripts write


def script_beside(page, name):
    """The script that writes a page, as a module."""
    spec = spec_from_file_location(name, page.with_name(f"{name}.py"))
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_help_texts_are_those_of_the_commands():
    cli_help = script_beside(CLI_PAGE, "cli_help")
    page = CLI_PAGE.read_text()
    assert len(cli_help.commands()) >= 8
    assert page == cli_help.updated(page), "run `python docs/reference/cli_help.py`"


def test_list_of_modules_is_current():
    code_map = script_beside(MODULES_PAGE, "code_map")
    assert MODULES_PAGE.read_text() == code_map.page(), "run `python docs/developer/code_map.py`"


def test_diagrams_are_those_of_their_script():
    page = DOCS / "images" / "index"
    diagrams = script_beside(page, "diagrams")
    assert len(diagrams.DIAGRAMS) == len([*page.parent.glob("*.svg")])
    for name in diagrams.DIAGRAMS:
        drawn = page.with_name(name).read_text()
        assert drawn == diagrams.svg(name), "run `python docs/images/diagrams.py`"
        ElementTree.fromstring(drawn)


# ------------------------------------------------------------------ messages


def test_quoted_messages_stand_in_the_source():
    quoted = documents.quotes(MESSAGES)
    assert len(quoted) > 40
    texts = documents.source_texts()
    gone = [quote for quote in quoted if not documents.is_found(quote, texts)]
    assert not gone, "messages that the page of messages explains, and that were changed"


def test_every_error_class_is_explained():
    text = TROUBLESHOOTING.read_text()
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    assert len(classes) == 9
    for error in classes:
        assert f"| `{error.__name__}` |" in text


# ------------------------------------------------------------------ messages, met for real


@pytest.mark.parametrize("mistake", [name for name in vars(Mistakes) if name[0] != "_"])
def test_frequent_messages_are_met_as_quoted(folder, monkeypatch, mistake):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(folder / "cache"))
    known = (InputError, ArtifactError, ModelFileError, OutputError, openmm.OpenMMException)
    with pytest.raises(known) as raised:
        getattr(Mistakes(folder), mistake)()
    quoted = [q for q in documents.quotes(MESSAGES) if documents.weight(q) > GENERAL]
    assert any(documents.pattern(quote).search(str(raised.value)) for quote in quoted)


def test_embedding_that_does_not_exist_is_told_as_the_page_says(folder):
    topology = app.PDBFile(str(folder / "examples" / "alanine_dipeptide.pdb")).topology
    system = app.ForceField("amber14-all.xml").createSystem(topology)
    potential = MLPotential("les", modelPath=folder / "my.les.pt")
    with pytest.raises(KeyError) as raised:
        potential.createMixedSystem(topology, system, [0], embedding="polarizable")
    assert f"KeyError: {raised.value}" in (DOCS / "howto" / "ml-mm.md").read_text()
