"""One callable for all copies of a saved System.

OpenMM keeps the callable of a PythonForce that it has unpickled for ever: every System that is
copied or read would leave its model behind, some megabytes. So all copies of one share one.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

_Made = TypeVar("_Made")

_alive: WeakValueDictionary[bytes, Any] = WeakValueDictionary()
_lock = threading.Lock()


def shared(
    make: Callable[[str, str, dict[str, Any]], _Made],
    path: str,
    sha256: str,
    settings: dict[str, Any],
) -> _Made:
    """The callable that was made of the same before, if anybody still has it, or a new one.

    Args:
        make: its class.
        path, sha256, settings: arguments of the class, which can be pickled.
    """
    key = hashlib.sha256(pickle.dumps((make, path, sha256, settings))).digest()
    with _lock:
        made: _Made | None = _alive.get(key)
        if made is None:
            made = _alive[key] = make(path, sha256, settings)
        return made
