"""Rebuilds the callable of a PythonForce in a saved System: the only function that it names.

OpenMM unpickles the callable of a PythonForce when it reads or copies a System, and the process
dies if that raises, as it would wherever this package or torch is missing. So the pickle of a
callable names only the standard library. What it runs takes `restore` from here if it can, and
otherwise gives a callable that says what is missing as soon as OpenMM asks for an energy.

Imports nothing heavy, and nothing that may be missing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import pickle
import threading
import types
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

#: Classes of callables by the names that saved Systems have for them, which stay as they are.
_KINDS = {
    "model": ("openmm_les.plugin.forces.pythonforce", "LESCompute"),
    "mixed": ("openmm_les.plugin.mixed.embeddings.mechanical", "MixedCompute"),
    "embedded": ("openmm_les.plugin.mixed.embeddings.electrostatic", "EmbeddedCompute"),
}

#: Stands in every saved System. An import is the one thing that it must survive, and nothing in the
#: standard library imports and catches what that raises.
_FIND_RESTORE = """\
try:
    from openmm_les.saved import restore
except Exception as error:
    reason = str(error)
    def restore(*saved):
        def refuse(state):
            raise ImportError(
                "this System needs the Python package openmm-les, which cannot be imported here "
                f"({reason}): pip install openmm-les"
            )
        return refuse
"""


_alive: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
_lock = threading.Lock()


class _Call:
    """Pickles to a call that is made on unpickling."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._made_of = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made_of

    def __call__(self, *arguments: Any) -> Any:
        """Call what it is after unpickling, as copying does with what `reduced` returns."""
        return pickle.loads(pickle.dumps(self))(*arguments)


#: A class whose body is the text above, and its function.
_RESTORE = _Call(
    getattr,
    _Call(types.new_class, "openmm_les", (), None, functools.partial(exec, _FIND_RESTORE)),
    "restore",
)


def reduced(
    kind: str, path: str, sha256: str, settings: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The result of ``__reduce__`` for a callable; arguments as for `restore`."""
    return _RESTORE, (kind, path, sha256, _plain(settings))


def restore(kind: str, path: str, sha256: str, settings: dict[str, Any]) -> Callable[..., Any]:
    """The callable of a saved System, or one that refuses every call; never raises.

    `path` is that of the artifact when the System was saved, `sha256` the hash of its content.
    """
    try:
        made = _shared(kind, path, sha256, settings)
    except ModuleNotFoundError as error:
        return Refusal((kind, path, sha256, settings), what_is_missing(error))
    except Exception as error:  # OpenMM does not survive any
        return Refusal(
            (kind, path, sha256, settings),
            "this System cannot be read by this version of openmm-les "
            f"({type(error).__name__}: {error}): pip install -U openmm-les",
        )
    return made


def _shared(kind: str, path: str, sha256: str, settings: dict[str, Any]) -> Callable[..., Any]:
    """The callable that exists for these arguments, or a new one.

    OpenMM never releases the callable of a PythonForce that it has unpickled: every copy of a
    System would leak its model, some megabytes. So all copies share one callable.
    """
    module, name = _KINDS[kind]
    key = hashlib.sha256(pickle.dumps((kind, path, sha256, settings))).digest()
    with _lock:
        made: Callable[..., Any] | None = _alive.get(key)
        if made is None:
            importlib.import_module("torch")  # needed in the first call, which may be far away
            made = getattr(importlib.import_module(module), name)(path, sha256, settings)
            _alive[key] = made
        return made


def what_is_missing(error: ModuleNotFoundError) -> str:
    """The message for a package that a saved System needs."""
    return (
        f"this System needs the Python package {error.name}, which cannot be imported here "
        f"({error}): pip install openmm-les"
    )


class Refusal:
    """Stands for a callable that cannot be restored here; its pickle is that of the callable."""

    def __init__(self, saved: tuple[str, str, str, dict[str, Any]], reason: str) -> None:
        self._saved = saved
        self._reason = reason

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return reduced(*self._saved)

    def __call__(self, state: object) -> object:
        """Raise a `SimulationError` that says what is missing."""
        from openmm_les.errors import SimulationError

        raise SimulationError(self._reason)


def _plain(value: Any) -> Any:
    """The same with Python's numbers in place of numpy's, whose pickles name numpy."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(each) for each in value)
    return value.item() if hasattr(value, "item") else value
