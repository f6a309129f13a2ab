"""Opening model files: hostile ones run nothing, wrong ones get a line that says what they are."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from openmm_les_export.checkpoints import unpickle
from openmm_les_export.checkpoints.unpickle import open_model, scan_globals
from oracles.cace_models import synthetic_cace
from oracles.models import TINY, needs_mace

from openmm_les.errors import ModelFileError


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("synthetic_models")


def error_line(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        open_model(path)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("model: ")
    return line


# --- hostile files ------------------------------------------------------------------------------


class _System:
    def __init__(self, sentinel: Path) -> None:
        self.command = f"touch {sentinel}"

    def __reduce__(self):
        return os.system, (self.command,)


class _Eval:
    def __init__(self, sentinel: Path) -> None:
        self.code = f"open({str(sentinel)!r}, 'w').close()"

    def __reduce__(self):
        return builtins.eval, (self.code,)


class _Nested:
    """Gets its function by a reduce of its own, deep inside harmless objects."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return _Call, (_Get(), (f"touch {self.sentinel}",))


class _Get:
    def __reduce__(self):
        return getattr, (os, "system")


def _Call(function, arguments):
    return function(*arguments)


HOSTILE = {"posix.system": _System, "builtins.eval": _Eval, "builtins.getattr": _Nested}


def _module_pickler(file, protocol):
    """A pickler that can also write modules, which the nested payload needs."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, obj):
            if obj is os:
                return __import__, ("os",)
            return NotImplemented

    return Pickler(file, protocol)


def _torch_zip(path: Path, data: bytes) -> Path:
    """An archive as torch.save lays it out, around any pickle."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)
    return path


def _payload(obj: object, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    _module_pickler(buffer, protocol).dump({"weights": [torch.float32, {"deep": obj}]})
    return buffer.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused_by_name_and_nothing_runs(tmp_path, name, monkeypatch):
    sentinel = tmp_path / "ran"
    payload = _payload(HOSTILE[name](sentinel))
    pickle.loads(payload)
    assert sentinel.exists(), "the payload must be live, or the test proves nothing"
    sentinel.unlink()

    # What importing mace-torch does to the process.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    line = error_line(_torch_zip(tmp_path / "hostile.model", payload))
    assert name in line
    assert not sentinel.exists()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_hostile_bare_pickle_is_refused_by_name_and_nothing_runs(tmp_path, name, protocol):
    sentinel = tmp_path / "ran"
    path = tmp_path / "hostile.model"
    path.write_bytes(_payload(HOSTILE[name](sentinel), protocol))
    assert name in error_line(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("protocol", [4, 5])
def test_hostile_archive_with_a_newer_protocol_is_refused_by_name(tmp_path, protocol):
    sentinel = tmp_path / "ran"
    data = _payload(_System(sentinel), protocol)
    assert "posix.system" in error_line(_torch_zip(tmp_path / "hostile.model", data))
    assert not sentinel.exists()


def test_hostile_file_in_torch_legacy_format_is_refused_by_name(tmp_path):
    sentinel = tmp_path / "ran"
    path = tmp_path / "legacy.model"
    torch.save(_System(sentinel), path, _use_new_zipfile_serialization=False)
    assert "posix.system" in error_line(path)
    assert not sentinel.exists()


@needs_mace
def test_payload_hidden_in_a_real_model_is_refused_by_name(tmp_path):
    from oracles.mace_models import build_model, les_stand_in

    sentinel = tmp_path / "ran"
    path = tmp_path / "hostile.model"
    with les_stand_in("new"):
        model = build_model(**TINY)
        model.les.ewald.sigma = _System(sentinel)
        torch.save(model, path)
    assert "posix.system" in error_line(path)
    assert not sentinel.exists()


def test_second_line_of_defence_needs_no_environment(tmp_path, monkeypatch):
    """Even without the scan, what opens the file calls nothing that is not on its list."""
    sentinel = tmp_path / "ran"
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(unpickle, "_check_globals", lambda file, names: None)
    path = _torch_zip(tmp_path / "hostile.model", pickle.dumps(_System(sentinel), 2))
    assert "posix.system, which is refused" in error_line(path)
    assert not sentinel.exists()


def test_functions_that_weights_only_would_allow_are_refused_too(tmp_path):
    data = pickle.dumps(torch.device("cpu"), 2)
    assert "torch.device" in error_line(_torch_zip(tmp_path / "device.model", data))


def test_scanner_reads_names_of_every_protocol():
    for protocol in range(6):
        assert list(scan_globals(pickle.dumps(os.getcwd, protocol))) == ["posix.getcwd"]
    # Names put together at run time cannot be read, and are not overlooked.
    assert list(scan_globals(b"\x80\x04]]\x93.")) == ["?"]
    assert list(scan_globals(b"\x80\x02\x82\x07.")) == ["copyreg extension 7"]


def test_archive_with_a_second_pickle_is_refused(tmp_path):
    path = _torch_zip(tmp_path / "two.model", _payload(1))
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    for other in (pickled.upper(), "other/data.pkl"):
        _torch_zip(path, _payload(1))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(other, _payload(2))
        assert "not one that torch.save writes" in error_line(path)


def test_tensor_beyond_the_end_of_its_storage_is_refused(tmp_path):
    path = tmp_path / "weights.model"
    torch.save({"a": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        data = archive.read(name)
        members = {name: archive.read(name) for name in archive.namelist()}
    members[name] = data.replace(b"K\x04", b"M\xff\xff")
    assert members[name] != data
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert "262140 bytes asked for, 16 in the file" in error_line(path)


# --- files that are something else --------------------------------------------------------------


def test_missing_empty_and_directory(tmp_path):
    assert "does not exist" in error_line(tmp_path / "none.model")
    assert "is a directory" in error_line(tmp_path)
    (tmp_path / "empty.model").touch()
    assert "is empty" in error_line(tmp_path / "empty.model")


def test_text_file(tmp_path):
    path = tmp_path / "notes.model"
    for text in ("model: MACE\nr_max: 4.5\n", "Größe\n" * 2000, "."):
        path.write_text(text)
        assert "is a text file" in error_line(path)


def test_other_binary_and_tar(tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    assert "is not a model file" in error_line(path)
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "test.py")
    assert "is a tar archive" in error_line(path)


def test_zip_of_another_kind(tmp_path):
    path = tmp_path / "x.model"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/readme.txt", "hello")
    assert "without data.pkl" in error_line(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/data.pkl", b"x" * 1000)
    assert "not one that torch.save writes" in error_line(path)


def test_torchscript_archive(tmp_path):
    path = tmp_path / "compiled.model"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    expected = "this is a TorchScript archive; export from the original .model file"
    assert expected in error_line(path)


def test_state_dict_and_checkpoint(tmp_path):
    path = tmp_path / "weights.pt"
    state = torch.nn.Linear(2, 2).state_dict()
    for content in (state, {"model": state, "epoch": 3}):
        torch.save(content, path)
        assert "state dict or training checkpoint" in error_line(path)
    torch.save([1, 2], path)
    assert "holds no model" in error_line(path)


def test_whole_model_of_another_kind(tmp_path):
    path = tmp_path / "other.model"
    torch.save(torch.nn.Linear(2, 2), path)
    line = error_line(path)
    assert "holds no LES model" in line
    assert "torch.nn.modules.linear.Linear" in line


def test_representation_alone(tmp_path):
    whole, part = tmp_path / "whole.pth", tmp_path / "part.pth"
    synthetic_cace(whole, change=lambda model, make: torch.save(model.representation, part))
    assert "is a CACE representation alone" in error_line(part)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_narrow_numbers(tmp_path, dtype):
    path = tmp_path / "narrow.pth"
    synthetic_cace(path, change=lambda model, make: model.to(dtype))
    assert "expected float32 or float64; convert the model" in error_line(path)


def test_newer_protocol_of_a_harmless_file(tmp_path):
    path = tmp_path / "weights.model"
    torch.save({"a": 1}, path, pickle_protocol=4)
    assert "protocol 4" in error_line(path)


@needs_mace
def test_plain_mace_model(tmp_path):
    from oracles.mace_models import build_model, les_stand_in

    path = tmp_path / "plain.model"
    with les_stand_in("new"):
        model = build_model(**TINY, options={"pair_repulsion": True})
    del model.les, model.les_readouts
    model.__class__ = type(model).__mro__[1]
    torch.save(model, path)
    assert "plain MACE model without LES" in error_line(path)


@needs_mace
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
def test_truncated_file(tmp_path, model_dir, keep):
    from oracles.mace_models import synthetic_model

    content = synthetic_model(model_dir, **TINY).read_bytes()
    path = tmp_path / "part.model"
    path.write_bytes(content[: int(len(content) * keep)])
    assert "truncated or damaged" in error_line(path)


@needs_mace
def test_damaged_weights_are_noticed(tmp_path, model_dir):
    from oracles.mace_models import synthetic_model

    content = bytearray(synthetic_model(model_dir, **TINY).read_bytes())
    content[content.rindex(b"/data/1PK") - 200 : content.rindex(b"/data/1PK")] = bytes(200)
    path = tmp_path / "flipped.model"
    path.write_bytes(content)
    assert "damaged" in error_line(path)
