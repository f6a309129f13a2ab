"""Loops that Numba compiles for a CPU, and where they can be used.

Importing this package imports neither Numba nor torch; its modules need both.
"""

import logging
from functools import cache
from importlib.util import find_spec

logger = logging.getLogger(__name__)

__all__ = ["are_available"]


@cache
def are_available() -> bool:
    """Whether the packages of the extra ``cpu`` are there; warns of some that do not work."""
    if find_spec("numba") is None or find_spec("vesin") is None:
        return False
    try:
        import numba  # noqa: F401
        import vesin  # noqa: F401
    except (ImportError, OSError) as error:  # such as a NumPy newer than Numba knows
        logger.warning("the extra 'cpu' is not used, since it does not work here: %s", error)
        return False
    return True
