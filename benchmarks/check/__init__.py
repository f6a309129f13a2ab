"""Parts of ``gpu_check.py``: what is carried, stages, the process that leads them, a summary."""
