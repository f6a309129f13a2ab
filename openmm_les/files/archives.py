"""Zip archives as torch writes them, read from bytes.

Only the central directory is used, and only if it is consistent: one folder, names that differ in
more than case, members inside the file that do not overlap. The stated size of a member is then at
most that of the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from openmm_les.files.reading import Damage

#: How a zip archive begins.
MAGIC = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 1
_MOST_MEMBERS = 2**16 - 2
#: Largest ratio of uncompressed data to the archive; code of torch reaches about ten.
_EXPANSION = 100
_CHUNK = 2**20


class Member(NamedTuple):
    """A file in an archive."""

    content: memoryview
    stored: bool  #: not compressed
    size: int  #: of the uncompressed content, as its checksum
    crc: int


class Archive:
    """The members of an archive, by name relative to its one folder; raises `Damage`."""

    def __init__(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        self.size = len(view)
        self.members: dict[str, Member] = {}
        folders: set[str] = set()
        names: set[str] = set()
        spans: list[tuple[int, int]] = []
        for path, member, start, end in _directory(view):
            folder, _, name = path.partition("/")
            folders.add(folder)
            names.add(path.lower())
            spans.append((start, end))
            self.members[name] = member
        if len(names) != len(spans) or len(folders) > 1:
            raise Damage("not one that torch.save writes: several folders, or a name twice")
        spans.sort()
        if any(end > start for (_, end), (start, _) in pairwise(spans)):
            raise Damage("members of the archive overlap")

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def read(self, name: str) -> memoryview:
        """The content of a member that is not compressed, as torch writes data."""
        if name not in self.members:
            raise Damage(f"the archive has no member {name}")
        member = self.members[name]
        if not member.stored:
            raise Damage(f"{name} is compressed; torch does not compress data")
        if zlib.crc32(member.content) != member.crc:
            raise Damage(f"checksum of {name}")
        return member.content

    def check(self) -> None:
        """Compares every member with its checksum."""
        compressed = sum(member.size for member in self.members.values() if not member.stored)
        if compressed > _EXPANSION * self.size:
            raise Damage(f"{compressed} bytes compressed into {self.size}")
        for name, member in self.members.items():
            if member.stored:
                self.read(name)
            elif _crc_of_compressed(member) != member.crc:
                raise Damage(f"checksum of {name}")


def _directory(view: memoryview) -> Iterator[tuple[str, Member, int, int]]:
    """Path, member, and first and last byte of every member."""
    if len(view) < _END.size or view[: len(MAGIC)] != MAGIC:
        raise Damage("no zip archive")
    start = len(view) - _END.size
    signature, disk, first, here, count, size, offset, comment = _END.unpack_from(view, start)
    if signature != b"PK\x05\x06" or comment:
        raise Damage("truncated: no directory at the end of the archive")
    if disk or first or here != count or count > _MOST_MEMBERS or offset + size > start:
        raise Damage("the directory of the archive contradicts itself")
    position = offset
    for _ in range(count):
        fields = _ENTRY.unpack_from(view[:start], position)
        if fields[0] != b"PK\x01\x02":
            raise Damage("the directory of the archive is broken")
        flags, method, crc = fields[3], fields[4], fields[7]
        packed, unpacked, name_size, extra, remark, place = *fields[8:13], fields[16]
        position += _ENTRY.size
        name = bytes(view[position : position + name_size])
        position += name_size + extra + remark
        body = _body(view[:offset], place, name)
        stored = method == _STORED
        if flags & _ENCRYPTED or method not in (_STORED, _DEFLATED):
            raise Damage("a member of the archive is encrypted or compressed in an unknown way")
        if body + packed > offset or (stored and packed != unpacked):
            raise Damage("a member of the archive is larger than the file")
        member = Member(view[body : body + packed], stored, unpacked, crc)
        yield name.decode("utf-8"), member, place, body + packed
    if position != offset + size:
        raise Damage("the directory of the archive contradicts itself")


def _body(view: memoryview, place: int, name: bytes) -> int:
    """Offset of a member's content, after a local header that must repeat its name."""
    fields = _LOCAL.unpack_from(view, place)
    begin = place + _LOCAL.size
    if fields[0] != MAGIC or bytes(view[begin : begin + fields[9]]) != name:
        raise Damage("a member of the archive is not where its directory says")
    return begin + int(fields[9]) + int(fields[10])


def _crc_of_compressed(member: Member) -> int | None:
    """Checksum of the uncompressed content; None if its size is not the stated one."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    crc = size = 0
    rest: bytes | memoryview = member.content
    while not inflate.eof:
        piece = inflate.decompress(rest, _CHUNK)
        rest = inflate.unconsumed_tail
        size += len(piece)
        crc = zlib.crc32(piece, crc)
        if size > member.size or not (piece or rest):
            return None
    return crc if size == member.size else None
