"""TorchScript's compiler, which serves one thread at a time."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.jit import _recursive

#: Two threads that script one class fail with "Can't redefine method". Hold this lock, too, around
#: calls of foreign code that scripts.
compiler = threading.RLock()

#: Functions of torch with their results for classes that have no overloaded methods, or properties.
_USUALLY_EMPTY = ("get_overload_annotations", "get_property_stubs")
_empty: dict[tuple[str, type], Any] = {}
_marked: dict[type, list[str]] = {}
_syntax_trees: WeakKeyDictionary[Callable[..., Any], dict[Any, Any]] = WeakKeyDictionary()


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """`torch.jit.script`, from any thread.

    Modules of one class share compiled methods in the form that was first needed, which under
    `as_written` would not inline calls; `torch.jit.freeze` needs that, so it is done here.
    """
    with compiler, _each_class_read_once():
        scripted: torch.jit.ScriptModule = torch.jit.script(module)
        _ = scripted.inlined_graph
    return scripted


@contextlib.contextmanager
def _each_class_read_once() -> Iterator[None]:
    """Keep what is found in classes, so that another module of a class takes half the time or less.

    Torch looks through all names of a class several times for each module.
    """
    torch_code: Any = _recursive
    parse = torch_code.get_jit_def

    def parse_once(function: Callable[..., Any], *names: Any, **options: Any) -> Any:
        trees = _syntax_trees.setdefault(getattr(function, "__func__", function), {})
        key = names, tuple(options.items())
        if key not in trees:
            trees[key] = parse(function, *names, **options)
        return trees[key]

    before = {name: getattr(torch_code, name) for name in _USUALLY_EMPTY}
    vars(torch_code).update({name: _unless_empty(find) for name, find in before.items()})
    torch_code.get_jit_def, torch_code.dir = parse_once, _names_of
    try:
        yield
    finally:
        vars(torch_code).update(before)
        torch_code.get_jit_def = parse
        vars(torch_code).pop("dir", None)


def _unless_empty(find: Callable[..., Any]) -> Callable[..., Any]:
    """What is found in a module, without looking into classes where there is nothing."""

    def find_once(module: nn.Module, *rest: Any) -> Any:
        key = find.__name__, type(module)
        if key not in _empty:
            found = find(module, *rest)
            if found:
                return found
            _empty[key] = found
        return _empty[key]

    return find_once


def _names_of(thing: Any) -> list[str]:
    """`dir`, for modules without the names of which TorchScript makes nothing."""
    if not isinstance(thing, nn.Module):
        return dir(thing)
    kind = type(thing)
    if kind not in _marked:
        mark = "_torchscript_modifier"  # as by torch.jit.export
        found = [name for name in dir(kind) if hasattr(getattr(kind, name, None), mark)]
        _marked[kind] = [*found, *getattr(kind, "__jit_ignored_attributes__", ())]
    return _marked[kind]
