"""Types of arguments that commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from openmm_les.files import user_path


class UserPath(click.ParamType):
    """A path, which may begin with ``~`` where the shell left that alone, as in ``--output=~/x``."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        """The same with the home directory in place of ``~``."""
        return user_path(value) if str(value).startswith("~") else Path(value)
