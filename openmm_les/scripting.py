"""TorchScript's compiler, which serves one thread at a time."""

from __future__ import annotations

import threading

import torch
from torch import nn

#: Two threads that script the same class fail with "Can't redefine method", whatever the objects.
#: Whoever calls code of others that scripts holds it, too.
compiler = threading.RLock()


def script(module: nn.Module) -> torch.jit.ScriptModule:
    """What `torch.jit.script` makes of a module, from any thread."""
    with compiler:
        scripted: torch.jit.ScriptModule = torch.jit.script(module)
    return scripted
