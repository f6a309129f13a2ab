"""Parts of networks as Triton kernels for GPUs, in float32, each a custom operator of torch.

On a CPU the operators are plain torch code.
"""
