"""The YAML file with the settings of a run, read without surprises; imports no torch, no openmm."""

from __future__ import annotations

from collections.abc import Hashable
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
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} is there more than once", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases: nested ones expand to any size."""
        if self.check_event(yaml.events.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, f"an alias (*{event.anchor}): write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


def read(
    file: Path,
    example: str = "steps: 1000",
    hint: str = "`openmm-les run --print-config` shows a complete file",
) -> dict[str, Any]:
    """The settings in a file, by name; `example` and `hint` say what belongs there."""
    with boundary(file, _KIND):
        try:
            content = yaml.load(read_file(file), Loader=_Loader)
        except (yaml.YAMLError, ValueError) as error:  # of text, numbers, dates
            reason = str(getattr(error, "problem", None) or error)
            if (mark := getattr(error, "problem_mark", None)) is not None:
                reason += f" (line {mark.line + 1}, column {mark.column + 1})"
            raise Damage(" ".join(reason.split())) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(
            f"config: expected lines such as '{example}' in {file}, got a "
            f"{type(content).__name__}; {hint}"
        )
    return {str(name): value for name, value in content.items()}
