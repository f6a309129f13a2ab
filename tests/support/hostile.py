"""Files that mean harm, put together byte by byte: archives, pickles and descriptions."""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

# --- pickles, in the instructions of protocol 2


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    if 0 <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def name(full_name: str) -> bytes:
    module, _, attribute = full_name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def call(full_name: str, *arguments: bytes) -> bytes:
    return name(full_name) + tuple_of(*arguments) + b"R"


def storage(key: bytes, count: bytes, kind: str = "torch.DoubleStorage") -> bytes:
    return tuple_of(text("storage"), name(kind), key, text("cpu"), count) + b"Q"


def tensor(
    source: bytes, size: tuple[int, ...], stride: tuple[int, ...] = (1,), offset: int = 0
) -> bytes:
    return call(
        "torch._utils._rebuild_tensor_v2",
        source,
        integer(offset),
        tuple_of(*map(integer, size)),
        tuple_of(*map(integer, stride)),
        b"\x89",
        call("collections.OrderedDict"),
    )


def pickled(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def doubled(levels: int) -> bytes:
    """Pairs of the pair before, twice."""
    return b"K\x01" + b"".join(
        b"q" + bytes([i % 256]) + b"h" + bytes([i % 256]) + b"\x86" for i in range(levels)
    )


# --- archives


def archive(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as written:
        for path, content in members.items():
            written.writestr(path, content)
    return buffer.getvalue()


def torch_file(value: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """What torch.save writes, around any pickle."""
    data = {f"model/data/{key}": content for key, content in (storages or {}).items()}
    others = {"model/byteorder": b"little", "model/version": b"3\n"}
    return archive({"model/data.pkl": pickled(value), **others, **data})


def _entry(path: bytes, content: bytes, crc: int, place: int) -> bytes:
    size = len(content)
    fields = (20, 20, 0, 0, 0, 0, crc, size, size, len(path), 0, 0, 0, 0, 0, place)
    return struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *fields) + path


def overlapping(pickle: bytes, copies: int, size: int) -> bytes:
    """Members that contain one another: the content of each is the header of the next, and all."""
    paths = [b"m/data/%d" % i for i in range(copies)]
    bodies, headers = bytes(size), []
    for path in reversed([b"m/data.pkl", *paths]):
        content = pickle if path.endswith(b"pkl") else bodies
        crc = zlib.crc32(content)
        fields = (20, 0, 0, 0, 0, crc, len(content), len(content), len(path), 0)
        header = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + path
        bodies = header + (pickle + bodies if path.endswith(b"pkl") else bodies)
        headers.append((path, content, crc, len(bodies)))
    entries = b"".join(_entry(*header, len(bodies) - left) for *header, left in headers)
    end = (0, 0, copies + 1, copies + 1, len(entries), len(bodies), 0)
    return bodies + entries + struct.pack("<4s4H2LH", b"PK\x05\x06", *end)


def with_wrong_directory(content: bytes, offset: int) -> bytes:
    """An archive whose directory is said to begin elsewhere."""
    return content[:-6] + struct.pack("<L", offset % 2**32) + content[-2:]


# --- artifacts


def rewritten(
    source: Path,
    change: Callable[[dict], object] | None = None,
    *,
    metadata: bytes | None = None,
    canonical: bytes | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """A real artifact with other metadata, or other weights."""
    buffer = BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("/extra/metadata.json"):
                described = json.loads(content)
                if change is not None:
                    change(described)
                content = json.dumps(described).encode() if metadata is None else metadata
            elif item.filename.endswith("/extra/canonical.pt") and canonical is not None:
                content = canonical
            new.writestr(item.filename, content)
    return buffer.getvalue()


def rewrite(source: Path, target: Path, change: Callable[[dict], object]) -> Path:
    """A copy of an artifact with its metadata changed."""
    target.write_bytes(rewritten(source, change))
    return target


# --- what is hostile


def _pickles() -> Iterator[tuple[str, bytes, dict[str, bytes]]]:
    """Pickles that ask for more than the file has, and the storages beside them."""
    eight = {"0": bytes(64)}
    for count in (2000, 10**8, -8, 2**62):
        yield f"storage_of_{count}", tensor(storage(text("0"), integer(count)), (8,)), eight
    encoded = call("_codecs.encode", text("0"), text("latin1"))
    decoys = {**eight, "b'0'": bytes(16000), "<encode >": bytes(16000)}
    yield "key_of_bytes", tensor(storage(encoded, integer(2000)), (2000,)), decoys
    yield "key_of_number", tensor(storage(integer(0), integer(8)), (8,)), eight
    yield "count_is_true", tensor(storage(text("0"), b"\x88"), (8,)), eight
    yield "count_is_real", tensor(storage(text("0"), b"G" + struct.pack(">d", 8.0)), (8,)), eight
    both = storage(text("0"), integer(8)), storage(text("0"), integer(16), "torch.FloatStorage")
    yield "two_kinds_of_one_storage", tuple_of(*(tensor(each, (8,)) for each in both)), eight
    source = storage(text("0"), integer(8))
    yield "beyond_the_end", tensor(source, (8,), offset=1), eight
    yield "before_the_start", tensor(source, (8,), offset=-1), eight
    yield "wide_steps", tensor(source, (2,), (2**40,)), eight
    yield "backwards", tensor(source, (8,), (-1,)), eight
    yield "one_number_repeated", tensor(source, (10**9,), (0,)), eight
    yield "empty_but_wide", tensor(source, (10**9, 0), (0, 1)), eight
    large = tensor(storage(text("0"), integer(10**5)), (10**5,))
    often = b"]" + large + b"q\x01a(" + b"h\x01" * 20_000 + b"e"
    yield "one_tensor_often", often, {"0": bytes(8 * 10**5)}
    shape = source, integer(0), tuple_of(*[integer(1)] * 10_000), tuple_of(*[integer(0)] * 10_000)
    yield "long_shape", _calls("torch._utils._rebuild_tensor_v2", *shape, count=50_000), eight


def _programs() -> Iterator[tuple[str, bytes]]:
    """Pickles that cost time or memory without any tensor."""
    yield "doubled_100", doubled(99)
    yield "doubled_60", doubled(60)
    yield "deep_lists", b"]" * 100_000 + b"a" * 99_999
    yield "deep_tuples", b")" + b"\x85" * 100_000
    yield "hash_of_doubled", b"}" + doubled(40) + b"Ns"
    yield "far_memo", b"Nr" + struct.pack("<I", 2**28)
    yield "many_instructions", b"(" + b"N" * 1_000_000 + b"t"
    yield "many_dictionaries", b"(" + b"}" * 1_000_000 + b"t"
    yield "many_sets", _many_sets(200_000)
    letters = text("a" * 10**5)
    elements = b"](" + b"".join(text(str(i)) for i in range(10_000)) + b"e"
    yield "many_copies_of_a_text", _calls("_codecs.encode", letters, text("latin1"), count=50_000)
    yield "many_copies_of_a_set", _calls("builtins.set", elements, count=50_000)
    numbers = tuple_of(*[b"K\x01"] * 50_000) + b"q\x00"
    yield "long_key", b"}(" + numbers + b"N" + b"h\x00N" * 9_000 + b"u"
    keys = b"".join(integer(k * (2**61 - 1)) + b"N" for k in range(1, 60_000))
    yield "colliding_numbers", b"}(" + keys + b"u"
    yield "integer_of_255_bytes", b"\x8a\xff" + b"\x7f" * 255
    yield "digits", b"I" + b"9" * 5000 + b"\n"
    yield "digits_long", b"L" + b"9" * 5000 + b"L\n"
    yield "no_text", b"X\x02\x00\x00\x00\xff\xfe"
    yield "long_name", b"c" + b"m" * 10**6 + b"\nx\n"
    yield "too_few_values", b"\x87"
    yield "no_mark", b"t"
    yield "nothing", b""
    yield "cut_short", b"X\xff\xff\xff\x7f"
    yield "not_from_memo", b"h\x07"
    yield "protocol_again", b"\x80\x02N"
    yield "more_than_one", b"NN"
    yield "builds_a_list", b"]}b"
    yield "calls_a_text", text("x") + b")R"
    yield "calls_a_storage", name("torch.FloatStorage") + b")R"
    yield "parameter_of_nothing", call("torch._utils._rebuild_parameter", b"N", b"\x89", b"N")


def _calls(function: str, *arguments: bytes, count: int) -> bytes:
    """The same call again and again, in three bytes each."""
    made = name(function) + b"q\x00" + tuple_of(*arguments) + b"q\x01"
    return b"(" + made + b"h\x00h\x01R" * count + b"t"


def _many_sets(count: int) -> bytes:
    made = b"h\x00h\x01R" * count
    return name("builtins.set") + b"q\x00" + tuple_of(b"]") + b"q\x01(" + made + b"tq\x02" + b"\x87"


def checkpoints(state: bytes, file: bytes) -> Iterator[tuple[str, bytes]]:
    """Files for the exporter.

    Args:
        state: a real file of torch.save.
        file: another one.
    """
    for label, value, storages in _pickles():
        yield label, torch_file(value, storages)
    for label, value in _programs():
        yield label, torch_file(value)
        wrapped = dictionary({"hyper_parameters": dictionary({"model": value}), "state_dict": b"}"})
        yield f"configured_{label}", torch_file(wrapped)
    yield "overlapping", overlapping(pickled(b"}"), 50, 2**20)
    names = {f"m/{'x' * 20}{i:06d}{'Aa'[i % 2]}": b"" for i in range(6000)}
    yield "many_names", archive({"m/data.pkl": pickled(b"}"), **names})
    alike = {f"m/{'aA'[i >> 7 & 1]}{'bB'[i & 1]}{i >> 1}": b"" for i in range(4000)}
    yield "colliding_names", archive({"m/data.pkl": pickled(b"}"), **alike})
    bomb = {"m/data.pkl": pickled(b"}"), "m/data/0": bytes(64 * 2**20)}
    yield "deflated", archive(bomb, zipfile.ZIP_DEFLATED)
    for offset in (0, 7, 2**31, 2**32 - 1):
        yield f"directory_at_{offset}", with_wrong_directory(file, offset)
    yield "name_is_no_text", file.replace(b"data.pkl", b"data.\xffkl")
    yield "big_endian", file.replace(b"little", b"BIGEND")
    yield "escape", torch_file(name("os.\x1b[31msystem"))
    for size in (1, 4, 21, 22, 30, 46, 100):
        yield f"first_{size}", file[:size]
        yield f"last_{size}", b"PK\x03\x04" + file[-size:]
    for keep in (0.3, 0.9, 0.999):
        yield f"cut_{keep}", state[: int(keep * len(state))]


def artifacts(source: Path) -> Iterator[tuple[str, bytes]]:
    """Files for the run-time package, from a real one."""
    for label, value, storages in _pickles():
        weights = torch_file(dictionary({"embedding": value}), storages)
        yield label, rewritten(source, canonical=weights)
    for label, value in _programs():
        yield label, rewritten(source, canonical=torch_file(value))
    yield "code", rewritten(source, canonical=torch_file(call("os.system", text("true"))))
    yield "no_archive", rewritten(source, canonical=b"hello")
    yield "overlapping", rewritten(source, canonical=overlapping(pickled(b"}"), 50, 2**20))
    description = b'{"format": "openmm-les", "format_version": 1, "x": [%s]}'
    for label, filling in (
        ("bomb", b"0," * 2**20 * 5 + b"0"),
        ("deep", b"[" * 100_000 + b"]" * 100_000),
        ("digits", b"9" * 5000),
        ("not_finite", b"NaN"),
        ("no_text", b'"\xff"'),
    ):
        content = description % filling
        yield f"metadata_{label}", rewritten(source, metadata=content)
        if label == "bomb":
            packed = rewritten(source, metadata=content, compression=zipfile.ZIP_DEFLATED)
            yield "metadata_deflated", packed
    yield "metadata_list", rewritten(source, metadata=b"[1]")
    for field in ("hyper", "les", "family", "source", "elements", "cutoff"):
        yield f"without_{field}", rewritten(source, lambda m, field=field: m.pop(field))
        yield f"other_{field}", rewritten(source, lambda m, field=field: m.update({field: 5}))
