"""Parts of networks as loops that Numba compiles for a CPU, each an operator of torch."""
