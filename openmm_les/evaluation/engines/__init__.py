"""Ways of running a module: TorchScript, torch.compile, CUDA graphs."""
