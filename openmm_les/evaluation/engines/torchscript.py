"""TorchScript's compiler, which serves one thread at a time."""

from __future__ import annotations

import threading

import torch
from torch import nn

#: Two threads that script the same class fail with "Can't redefine method", whatever the objects.
#: Whoever calls code of others that scripts holds it, too.
compiler = threading.RLock()


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """What `torch.jit.script` makes of a module, from any thread.

    Modules of one class share their compiled methods, and torch keeps the form in which a method
    was first needed. A first call under `arithmetic.as_written` would leave calls among them
    standing, through which `torch.jit.freeze` does not see later; so they are put in place now.
    """
    with compiler:
        scripted: torch.jit.ScriptModule = torch.jit.script(module)
        _ = scripted.inlined_graph
    return scripted
