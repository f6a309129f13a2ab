"""Parts of networks as loops over pairs that Numba compiles for a CPU, each an operator of torch.

Importing this package imports neither Numba nor torch; its modules need both.
"""

import logging
from functools import cache
from importlib.util import find_spec

logger = logging.getLogger(__name__)

__all__ = ["are_available"]


@cache
def are_available() -> bool:
    """Whether there is a compiler for the loops; warns of one that does not work."""
    if find_spec("numba") is None:
        return False
    try:
        import numba  # noqa: F401
    except ImportError as error:  # such as a NumPy newer than it knows
        logger.warning("the package numba is not used, since it does not work here: %s", error)
        return False
    return True
