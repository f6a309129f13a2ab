"""Parts of networks as Triton kernels for GPUs, in float32, each a custom operator of torch.

On a CPU the operators are plain torch code. Importing this package imports neither Triton nor
torch; its modules need both.
"""

from importlib.util import find_spec

from openmm_les.errors import InputError

__all__ = ["require_triton"]


def require_triton() -> None:
    """Check that there is a compiler for the kernels.

    Raises:
        InputError: there is none; torch for a CPU comes without.
    """
    if find_spec("triton") is None:
        raise InputError(
            "fused: expected the package triton for fused=True, which torch for NVIDIA GPUs "
            "brings, and found none; install such a torch, or leave out fused=True"
        )
