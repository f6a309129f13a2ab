"""Which code computes the heavy parts of a network and finds its neighbours, and where it can.

Kernels in Triton and loops of Numba are operators of torch that are written in Python, which no
saved script can hold. What they lack is torch code. Importing this package imports none of them.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from typing import Literal, TypeAlias, get_args

logger = logging.getLogger(__name__)

#: Operations of torch, which run everywhere and which the others are compared with; kernels for
#: GPUs, in float32; loops for a CPU.
Kernels: TypeAlias = Literal["torch", "triton", "numba"]
KERNELS: tuple[Kernels, ...] = get_args(Kernels)


def obstacle(
    kernels: Kernels,
    *,
    single: bool = True,
    on_gpu: bool | None = None,
    static_shapes: bool | None = None,
    python_operators: bool = True,
) -> str:
    """Why these kernels cannot compute a model, with what to do; empty if they can.

    Args:
        kernels: those in question.
        single: whether the model is in float32.
        on_gpu: whether it runs on a GPU; None: not known yet.
        static_shapes: whether it does the same work for every structure; None: not known yet.
        python_operators: whether it may call operators that are written in Python.
    """
    if kernels == "torch":
        return ""
    needs: dict[str, bool | None] = {"Python, which saved scripts lack": python_operators}
    if kernels == "triton":
        needs |= {"single precision": single, "a GPU": on_gpu}
    else:
        needs |= {"a CPU": not on_gpu, "shapes that vary": not static_shapes}
    if lacking := [what for what, is_met in needs.items() if is_met is False]:
        return f"kernels: {kernels!r} needs {lacking[0]}; use kernels='torch'"
    if kernels == "triton" and find_spec("triton") is None:
        return (
            "kernels: 'triton' needs the package triton, which torch for NVIDIA GPUs brings, and "
            "it is not installed; install such a torch, or use engine='torchscript'"
        )
    if kernels == "numba" and not _numba_works():
        return (
            "kernels: 'numba' needs the packages of the extra cpu, numba and vesin, and they are "
            "not installed or do not work; run pip install 'openmm-les[cpu]', or use "
            "engine='torchscript'"
        )
    return ""


def usual_kernels(**circumstances: bool) -> Kernels:
    """What computes a model where nothing was measured: loops on a CPU if they can, else torch.

    Args:
        circumstances: those of `obstacle`.
    """
    return "torch" if obstacle("numba", **circumstances) else "numba"


@cache
def _numba_works() -> bool:
    """Whether the packages of the extra ``cpu`` are there; warns of some that do not work."""
    if find_spec("numba") is None or find_spec("vesin") is None:
        return False
    try:
        import numba
        import vesin

        vesin.NeighborList(cutoff=1.0, full_list=False, n_threads=1)  # not in older versions
        if getattr(numba.config, "DISABLE_JIT", False):
            raise ImportError("NUMBA_DISABLE_JIT is set")
    except Exception as error:  # such as a NumPy newer than Numba knows
        logger.warning("the extra 'cpu' is not used, since it does not work here: %s", error)
        return False
    return True
