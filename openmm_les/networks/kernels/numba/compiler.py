"""Numba's compiler with the options that all loops have."""

from collections.abc import Callable
from typing import Any

import numba

#: Sums may be taken in another order, for vector instructions; NaN and infinity stay what they are.
_REORDERED = {"contract", "nsz", "arcp", "reassoc"}


def compiled(function: Callable[..., Any]) -> Any:
    """A function as machine code, made at its first call and kept on disk; it needs no GIL.

    Sums may be rounded in another way than written.
    """
    return _compiled(function, fastmath=_REORDERED)


def compiled_as_written(function: Callable[..., Any]) -> Any:
    """The same with every number rounded as written."""
    return _compiled(function)


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder that can be written
        return numba.njit(function, **options)
