"""The YAML file with the settings of a run, read without surprises.

Imports neither torch nor openmm, so that the command line can show its help at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from openmm_les.errors import InputError
from openmm_les.files.reading import Damage, Kind, boundary, read_file

_KIND = Kind(InputError, "config", "config: {file} is not valid YAML: {reason}")


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys and aliases."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a duplicate key, of which YAML would silently drop one."""
        seen: Counter[str] = Counter()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                seen[key.value] += 1
                if seen[key.value] > 1:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} is there more than once", key.start_mark
                    )
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases: nested ones expand to any size."""
        if self.check_event(yaml.events.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"an alias (*{event.anchor}): write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


def read(file: Path) -> dict[str, Any]:
    """The settings in a file, by name.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    with boundary(file, _KIND):
        try:
            content = yaml.load(read_file(file), Loader=_Loader)
        except (yaml.YAMLError, ValueError) as error:  # of text, numbers, dates
            raise Damage(" ".join(" ".join(_sentences(error)).split())) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"config: expected lines such as 'steps: 1000' in {file}, got a "
            f"{type(content).__name__}; `openmm-les run --print-config` shows a complete file"
        )
    return {str(name): value for name, value in content.items()}


def _sentences(error: Exception) -> Iterator[str]:
    mark = getattr(error, "problem_mark", None)
    yield str(getattr(error, "problem", None) or error)
    if mark is not None:
        yield f"(line {mark.line + 1}, column {mark.column + 1})"
