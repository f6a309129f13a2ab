"""Many runs side by side: plans, the engine that executes them on Dask, and their results."""
