"""Triton without a GPU: its interpreter, and ahead-of-time compilation."""

import os

os.environ["TRITON_INTERPRET"] = "1"  # is read when kernels are defined

import triton.runtime.interpreter as interpreter

_patch_tensor = interpreter._patch_lang_tensor


def _patch_index_too(tensor):
    """Numbers have the shape [1] there, which numpy 2.4 no longer takes for an index."""
    _patch_tensor(tensor)
    tensor.__index__ = lambda self: int(self.handle.data.item())


interpreter._patch_lang_tensor = _patch_index_too
