"""What is tried: kinds of files, their sound examples, and the cases made from these by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np

from fuzzing import mutate

Numbers = Sequence[float] | np.ndarray
Hostile = Callable[["Seed"], bytes]


class Missing(Exception):
    """What a kind of files needs and is not here."""


class SilentlyLost(Exception):
    """A file was accepted although part of what it says was dropped without a word."""


@dataclass(frozen=True)
class Seed:
    """A sound file, with those that go with it.

    Attributes:
        folder: which is copied for every case.
        path: what is read, relative to the folder; ``.`` for the folder itself.
        files: what is changed, relative to the folder.
    """

    folder: Path
    path: str
    files: tuple[str, ...]

    @classmethod
    def of(cls, file: Path) -> Seed:
        """A file that stands alone in its folder."""
        return cls(file.parent, file.name, (file.name,))

    def content(self, file: str) -> bytes:
        """Of one of the files."""
        return _content(self.folder / file)


@lru_cache(maxsize=64)
def _content(path: Path) -> bytes:
    return path.read_bytes()


@dataclass(frozen=True)
class Target:
    """A kind of files.

    Attributes:
        kind: its name.
        seeds: makes sound files in a folder; raises `Missing` where it cannot.
        read: reads a file as a user's command does, and returns the numbers that come of it.
        hostile: files made on purpose, each in place of the first file of the first seed.
        accepted: names of hostile files that may be accepted.
        named: what else a message may hold in place of the name of the file.
        guarded: whether every change must be noticed; else only those of the bytes of zip archives,
            whose members have checksums.
    """

    kind: str
    seeds: Callable[[Path], list[Seed]]
    read: Callable[[Path], Numbers]
    hostile: Mapping[str, Hostile] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()
    named: tuple[str, ...] = ()
    guarded: bool = False


@dataclass(frozen=True)
class Case:
    """One file to try.

    Attributes:
        number: by which it is made again.
        name: of the mutation or of the hostile file.
        seed: index of the seed.
        file: which of its files is replaced.
        content: by what.
        guarded: whether the file must be refused, or mean the same as before.
    """

    number: int
    name: str
    seed: int
    file: str
    content: bytes
    guarded: bool


def make_case(target: Target, seeds: Sequence[Seed], number: int, random_seed: int) -> Case:
    """The case of this number: first the hostile files, then mutations."""
    names = list(target.hostile)
    if number < len(names):
        name, seed = names[number], seeds[0]
        content = target.hostile[name](seed)
        return Case(number, name, 0, seed.files[0], content, name not in target.accepted)
    rng = Random(f"{random_seed} {target.kind} {number}")
    index = rng.randrange(len(seeds))
    file = rng.choice(seeds[index].files)
    before = seeds[index].content(file)
    content, name = mutate.mutated(rng, before)
    guarded = target.guarded or (before[:2] == b"PK" and name in mutate.RAW)
    return Case(number, name, index, file, content, guarded)
