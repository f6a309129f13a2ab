"""Parts of networks as Triton kernels for GPUs, in float32, each a custom operator of torch.

Each `Fused...` module holds what it replaces, which computes in its place on a CPU.
"""
