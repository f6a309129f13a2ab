"""Loops on a machine that is full, or was switched off, and under a user who presses Ctrl-C."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from openmm_les.networks.kernels import obstacle

if obstacle("numba"):
    pytest.skip("needs the extra cpu", allow_module_level=True)

from openmm_les.networks.kernels.numba import compiler
from openmm_les.networks.kernels.numba.compiler import compiled
from openmm_les.networks.kernels.numba.operators import operator
from openmm_les.processes.interrupts import stoppable


def _double(values):
    for i in range(len(values)):
        values[i] *= 2.0


def doubled():
    values = np.ones(3)
    compiled(_double)(values)
    return values.tolist()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Files that Numba keeps."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    return lambda: sorted(path for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("left", [b"", pickle.dumps("other"), b"\x80\x05]"], ids=repr)
def test_damaged_machine_code_is_compiled_again(cache, left):
    assert doubled() == [2.0] * 3
    whole = {path: path.read_bytes() for path in cache()}
    assert len(whole) == 2  # an index, and the code
    for damaged in whole:
        damaged.write_bytes(left)
        assert doubled() == [2.0] * 3
        assert [path.stat().st_size for path in cache()] == list(map(len, whole.values()))


def test_a_full_disk_keeps_no_machine_code(cache, monkeypatch, caplog):
    caplog.set_level("INFO")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    assert doubled() == [2.0] * 3
    assert "cannot be written ([Errno 28] No space left on device)" in caplog.text


def test_what_compiles_for_long_says_so_once(caplog):
    times = iter([0.0, 1.5, 1.5, 2.2, 2.2, 2.9, 2.9, 3.6, 3.6])
    patience = compiler.Patience(__name__.partition(".")[0], clock=lambda: next(times))
    with compiler.events.install_listener("numba:compile", patience):
        for said in (0, 0, 1, 1):  # when 0, 1.5, 2.2 and 2.9 s have been spent
            compiler.numba.njit(lambda value: value + 1.0)(1.0)
            assert caplog.text.count("compiling loops for this CPU") == said
        compiler.numba.njit(_of_another_package())(1.0)
    assert next(times) == 3.6  # two readings for each function of this module


def _of_another_package():
    def same(value):
        return value

    same.__module__ = "another.package"
    return same


@operator("raise_in_a_test(Tensor values, int which) -> Tensor")
def _raise(values, which):
    raise [KeyboardInterrupt, SystemExit(143), SystemExit, ValueError("no such slot")][which]


class Raising(nn.Module):
    def forward(self, values: torch.Tensor, which: int) -> torch.Tensor:
        return torch.ops.openmm_les_loops.raise_in_a_test(values, which)


@pytest.mark.parametrize(
    ("which", "expected", "code"),
    [
        (0, KeyboardInterrupt, None),
        (1, SystemExit, 143),
        (2, SystemExit, 0),
        (3, RuntimeError, None),
    ],
)
def test_what_a_signal_raises_leaves_a_script(which, expected, code):
    module = torch.jit.script(Raising())
    with pytest.raises(expected) as raised, stoppable():
        module(torch.ones(1), which)
    assert getattr(raised.value, "code", None) == code
