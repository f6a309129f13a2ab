"""Parts of networks as loops over pairs for a CPU, each an operator of torch."""
