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

_syntax_trees: WeakKeyDictionary[Callable[..., Any], dict[Any, Any]] = WeakKeyDictionary()


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """`torch.jit.script`, from any thread.

    Modules of one class share compiled methods in the form that was first needed, which under
    `as_written` would not inline calls; `torch.jit.freeze` needs that, so it is done here.
    """
    with compiler, _each_method_parsed_once():
        scripted: torch.jit.ScriptModule = torch.jit.script(module)
        _ = scripted.inlined_graph
    return scripted


@contextlib.contextmanager
def _each_method_parsed_once() -> Iterator[None]:
    """Keep syntax trees of methods, so that another module of a class takes half the time."""
    torch_code: Any = _recursive
    parse = torch_code.get_jit_def

    def parse_once(function: Callable[..., Any], *names: Any, **options: Any) -> Any:
        trees = _syntax_trees.setdefault(getattr(function, "__func__", function), {})
        key = names, tuple(options.items())
        if key not in trees:
            trees[key] = parse(function, *names, **options)
        return trees[key]

    torch_code.get_jit_def = parse_once
    try:
        yield
    finally:
        torch_code.get_jit_def = parse
