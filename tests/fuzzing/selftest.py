"""Readers that do what must not happen, to see that the harness tells it."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

from fuzzing.cases import Numbers, Seed, SilentlyLost, Target
from fuzzing.worker import SENTINEL
from openmm_les.errors import InputError

#: What the file asks the reader to do, and the verdict of it.
VERDICTS = {
    "abort": "crash",
    "segfault": "crash",
    "exit": "crash",
    "leave": "exception",
    "loop": "hang",
    "sleep": "hang",
    "swell": "memory",
    "ask": "memory",
    "raise": "exception",
    "lines": "message",
    "endless": "message",
    "nameless": "message",
    "accept": "changed",
    "lose": "changed",
    "run": "ran",
    "refuse": "refused",
    "keep": "same",
}


def prepare() -> None:
    """Nothing is imported late."""


def _read(path: Path) -> Numbers:
    wish = path.read_text()
    if wish == "abort":
        os.abort()
    if wish == "segfault":
        ctypes.string_at(0)
    if wish == "exit":
        os._exit(0)
    if wish == "leave":
        sys.exit(0)
    if wish == "sleep":
        time.sleep(10_000)
    if wish == "raise":
        raise KeyError("hyper")
    if wish == "lose":
        raise SilentlyLost("an atom")
    if wish == "run":
        os.mkdir(SENTINEL)
    while wish == "loop":
        pass
    _take_memory(wish)
    _refuse(wish, path)
    return [2.0 if wish == "accept" else 1.0]


def _take_memory(wish: str) -> None:
    if wish == "swell":
        bytearray(os.urandom(1)) * 200_000_000
    if wish == "ask":
        try:
            bytearray(2**45)
        except MemoryError:
            raise InputError("number.txt is damaged") from None


def _refuse(wish: str, path: Path) -> None:
    messages = {
        "lines": f"{path}\nhttps://errors.pydantic.dev",
        "endless": f"{path}: {5000 * '9'}",
        "nameless": "a number was expected",
        "refuse": f"{path}: expected a number",
    }
    if wish in messages:
        raise InputError(messages[wish])


def _seeds(base: Path) -> list[Seed]:
    (base / "number.txt").write_text("sound")
    return [Seed(base, "number.txt", ("number.txt",))]


TARGETS = {
    "selftest": Target(
        "selftest", _seeds, _read, {wish: lambda _, w=wish: w.encode() for wish in VERDICTS}
    )
}
