"""Reads the Markdown documents and the messages in the source, for `test_documents`.

A page is one program: its ``python`` blocks and the ``openmm-les`` lines of its shell blocks
(``bash``, or no language) run in order, in one process. ``<!-- needs: gpu -->`` in the line above a
block names the marker without which it is left out; ``<!-- run by: tests/test_x.py -->`` names the
test that runs a block in its own way, or the page that has the same lines, where each takes long.
"""

import ast
import json
import re
import shlex
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from support.programs import run_program

from openmm_les import catalog

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts),
]
SOURCES = sorted(path for wing in ("openmm_les", "export") for path in (ROOT / wing).rglob("*.py"))

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*) *$")
_NEEDS = re.compile(r"<!-- needs: ([\w, ]+) -->")
_ELSEWHERE = re.compile(r"<!-- run by: (\S+) -->")
#: What a shell block may call besides openmm-les; nothing of this is run.
OTHER_COMMANDS = ("pip", "make", "git", "cd", ".", "source", "export", "python", "python3")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    needs: frozenset[str]
    elsewhere: str
    code: str

    def shell_lines(self) -> list[str]:
        """Commands of a shell block; one without a language may also hold other text."""
        if self.language not in ("", "bash"):
            return []
        lines = [line.strip() for line in self.code.replace("\\\n", " ").splitlines()]
        commands = [line for line in lines if line and not line.startswith("#")]
        if self.language == "bash":
            return commands
        known = ("openmm-les", *OTHER_COMMANDS)
        return [command for command in commands if program(command) in known]

    def steps(self) -> list[dict[str, object]]:
        """What of it is run: Python code, or arguments of ``openmm-les``."""
        if self.elsewhere:
            return []
        if self.language == "python":
            return [{"python": self.code, "page": self.page.name, "line": self.line}]
        calls = [shlex.split(line, comments=True) for line in self.shell_lines()]
        return [{"arguments": call[1:]} for call in calls if program(call[0]) == "openmm-les"]


def program(command: str) -> str:
    """What a command line calls, without the folder it lies in."""
    return command.split()[0].rpartition("/")[2]


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a page, in order."""
    found = []
    above, lines = "", iter(enumerate(page.read_text().splitlines(), 1))
    for number, line in lines:
        if opening := _FENCE.match(line):
            body = []
            for _, inner in lines:
                if inner.strip() == "```":
                    break
                body.append(inner)
            code = textwrap.dedent("\n".join(body)) + "\n"
            stated = _NEEDS.search(above)
            needs = {need.strip() for need in stated[1].split(",")} if stated else set()
            if _fetches_published(code):
                needs.add("network")
            other = _ELSEWHERE.search(above)
            found.append(
                Block(
                    page,
                    number + 1,
                    opening["language"],
                    frozenset(needs),
                    other[1] if other else "",
                    code,
                )
            )
        above = line
    return found


def _fetches_published(code: str) -> bool:
    """Whether code downloads a model, or asks for one that was downloaded."""
    published = "|".join(name for name in catalog.names() if catalog.entry(name).url)
    call = rf"models (download|where) ({published})\b|MLPotential\(['\"]({published})['\"]\)"
    return re.search(call, code) is not None


def lines_run_by(page: Path) -> set[str]:
    """Lines of the shell blocks that are run with a page."""
    return {line for block in blocks(page) if not block.elsewhere for line in block.shell_lines()}


def needs_of(page: Path) -> list[frozenset[str]]:
    """Sets of requirements with which a page can be run, the smallest first."""
    return sorted({block.needs for block in blocks(page) if block.steps()}, key=sorted)


#: Runs the steps of a page in one process, as a reader does in one session.
_DRIVER = """
import json, sys
from contextlib import nullcontext, redirect_stdout
from openmm_les.cli import main

def run(steps, namespace):
    for step in steps:
        if "python" in step:
            code = "\\n" * (step["line"] - 1) + step["python"]
            exec(compile(code, step["page"], "exec"), namespace)
            continue
        arguments, redirected = step["arguments"], nullcontext()
        if ">" in arguments:
            *arguments, _, file = arguments
            redirected = redirect_stdout(open(file, "w"))
        try:
            with redirected:
                main(arguments)
        except SystemExit as stopped:
            if stopped.code != 0:
                sys.exit(f"openmm-les {step['arguments']}: exit status {stopped.code}")

if __name__ == "__main__":  # not in workers of Dask
    run(json.load(open("steps.json")), {"__name__": "__main__"})
"""


def run_page(page: Path, needs: frozenset[str], folder: Path) -> None:
    """Run the blocks that need nothing and those that need `needs`."""
    chosen = [block for block in blocks(page) if not block.needs or block.needs == needs]
    steps = [step for block in chosen for step in block.steps()]
    writes = [argument for step in steps for argument in step.get("arguments", ())]
    if "my.les.pt" in _outputs(writes):
        (folder / "my.les.pt").unlink()
    (folder / "steps.json").write_text(json.dumps(steps))
    driver = folder / "driver.py"
    driver.write_text(_DRIVER)
    done = run_program(driver, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def _outputs(arguments: list[str]) -> set[str]:
    return {value for option, value in pairwise(arguments) if option in ("-o", "--output")}


# ------------------------------------------------------------------ messages

_FORMAT = re.compile(r"%[-+\d.]*[srdfg]")
GAP = "\0"


def template(node: ast.expr) -> str | None:
    """Text of a string expression with `GAP` for what is put in at run time; None for others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _FORMAT.sub(GAP, node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
        return "".join(str(part) for part in parts)
    if isinstance(node, ast.BinOp):
        left, right = template(node.left), template(node.right)
        return None if left is None and right is None else (left or GAP) + (right or GAP)
    return None


@cache
def source_texts() -> tuple[str, ...]:
    """Every text in the source."""
    trees = (ast.walk(ast.parse(path.read_text())) for path in SOURCES)
    texts = (template(node) for tree in trees for node in tree if isinstance(node, ast.expr))
    return tuple(text for text in texts if text)


def quotes(page: Path) -> list[str]:
    """Messages in the first column of the page's tables, where the head of the column says so."""
    found, quoting = [], False
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            quoting = False
        elif line.startswith("| message |"):
            quoting = True
        elif quoting and not line.startswith("|---"):
            cell = re.match(r"\| (`+)(.+?)\1 \|", line)
            assert cell, f"{page.name}: expected a message in backticks: {line}"
            found.append(cell[2].strip())
    return found


def pattern(quote: str) -> re.Pattern[str]:
    """What a quoted message matches: ``...`` stands for anything."""
    return re.compile(".*?".join(map(re.escape, quote.split("..."))), re.DOTALL)


def is_found(quote: str, texts: Iterable[str]) -> bool:
    """Whether one of the texts is quoted; most are ruled out by the longest literal piece."""
    longest = max(quote.split("..."), key=len)
    sought = pattern(quote)
    return any(longest in text and sought.search(text) for text in texts)


def weight(text: str) -> int:
    """Length of the longest piece that is there literally: short ones say nothing."""
    return max(len(piece) for piece in re.split(rf"\.\.\.|{GAP}", text))
