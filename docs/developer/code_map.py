"""Keeps modules.md, the list of all modules: `python docs/developer/code_map.py` writes it anew."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PAGE = Path(__file__).with_name("modules.md")
ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "openmm_les", ROOT / "export" / "openmm_les_export")
HEAD = """# Modules

Every module with the first line of its docstring, from which this page is made:
`python docs/developer/code_map.py`. How they work together: [architecture](architecture.md).
"""


def summary(path: Path) -> str:
    """First sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraph = " ".join(text.split("\n\n")[0].split()).replace("``", "`")
    return re.split(r"(?<=\.) (?=[A-Z])|; ", paragraph)[0].rstrip(".").replace("|", r"\|")


def page() -> str:
    """The page as the modules are now: a section for each package, a row for each module."""
    lines = [HEAD.rstrip()]
    for package in PACKAGES:
        for init in sorted(package.rglob("__init__.py")):
            name = ".".join(init.parent.relative_to(package.parent).parts)
            modules = [path for path in sorted(init.parent.glob("*.py")) if path != init]
            lines += ["", f"## {name}", "", f"{summary(init)}."]
            if modules:
                lines += ["", "| module | |", "|---|---|"]
                lines += [f"| `{path.name}` | {summary(path)} |" for path in modules]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"wrote {PAGE}")
