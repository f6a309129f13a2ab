"""Command-line flags made from objects that hold options. Imports neither torch nor openmm."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from openmm_les.cli.terminal import UserPath
from openmm_les.names import Field, flag_of, options_of

if TYPE_CHECKING:
    from pydantic import BaseModel

Command = Callable[..., Any]

output = functools.partial(click.option, "-o", "--output", type=UserPath())


def as_json(help: str) -> Callable[[Command], Command]:
    """The flag ``--json``, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def overwrite(help: str) -> Callable[[Command], Command]:
    return click.option("--overwrite", is_flag=True, help=help)


def workers(command: Command) -> Command:
    """The flags ``--workers`` and ``--scheduler`` of commands that execute a campaign."""
    number = click.option(
        "--workers",
        type=int,
        help="Workers on this machine; default: one for each GPU, or else each core.",
    )
    address = click.option(
        "--scheduler", help="Address or file of a Dask scheduler with workers of its own."
    )
    decorated: Command = number(address(command))
    return decorated


def with_options(
    kind: Any, argument: str = "options", *, only: tuple[str, ...] | None = None, **defaults: Any
) -> Callable[[Command], Command]:
    """Give a command a flag for each option of `kind`, or some of them; it gets one object."""
    chosen = {
        name: field for name, field in options_of(kind).items() if only is None or name in only
    }

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def collect(*args: Any, **kwargs: Any) -> Any:
            given = {name: kwargs.pop(name) for name in chosen}
            given = {name: None if value == "null" else value for name, value in given.items()}
            return function(*args, **kwargs, **{argument: kind(**given)})

        command: Command = collect
        for name, field in reversed(chosen.items()):
            command = _flag(field, defaults.get(name, field.default))(command)
        return command

    return decorate


def with_settings(
    model: type[BaseModel], *, only: tuple[str, ...] | None = None
) -> Callable[[Command], Command]:
    """Give a command a flag for each field of a model, or some, which it gets as text, or None."""
    from openmm_les.simulation import fields

    def decorate(function: Command) -> Command:
        for name, field in reversed(model.model_fields.items()):
            if only is not None and name not in only:
                continue
            rules: dict[str, Any] = {}
            if fields.is_list(field):
                rules = {"multiple": True, "callback": _joined}
            function = click.option(
                flag_of(name),
                name,
                metavar=fields.metavar(field),
                help=f"{field.description}  [{fields.default(field)}]",
                **rules,
            )(function)
        return function

    return decorate


def given(fields: Mapping[str, str | None]) -> dict[str, str | None]:
    """The settings that flags of `with_settings` state; null is None, as in files."""
    return {
        name: None if value == "null" else value
        for name, value in fields.items()
        if value is not None
    }


def _joined(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> str | None:
    return ",".join(given) or None


def _flag(field: Field, default: Any) -> Callable[[Command], Command]:
    is_flag = field.kinds == (bool,)
    rules: dict[str, Any] = {"is_flag": True} if is_flag else {"type": _type(field)}
    return click.option(
        field.option.flag or flag_of(field.name),
        field.name,
        default=default,
        show_default=not is_flag and default is not None,
        metavar=field.option.metavar,
        help=_sentence(field.option.description),
        **rules,
    )


def _sentence(description: str) -> str:
    text = description[:1].upper() + description[1:].replace("None", "null")
    return text if text.endswith(".") else f"{text}."


def _type(field: Field) -> Any:
    if field.choices:
        return click.Choice([str(choice) for choice in field.choices])
    if field.kinds in ((int,), (float,)):
        return field.kinds[0]
    return UserPath() if set(field.kinds) == {str, os.PathLike[str]} else str
