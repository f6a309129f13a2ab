"""Published models: download, check, export, cache, and what users are told when it fails.

A server on this machine stands for the authors'; synthetic models stand for the published one.
"""

import contextlib
import http.server
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import ase.build
import numpy as np
import pytest
import requests
from openmm import app
from openmmml import MLPotential
from oracles.mace_models import synthetic_model
from oracles.models import TINY, needs_mace
from support.contexts import create_context, energy_and_forces, of_calculator
from support.helpers import topology_from_atoms

from openmm_les import artifact, catalog
from openmm_les.cli import main
from openmm_les.errors import ArtifactError, DownloadError, InputError, OutputError
from openmm_les.plugin.factory import LESPotentialImplFactory
from openmm_les.units import KJ_PER_MOL_PER_EV

PUBLISHED = catalog.entry("maceles-off")
WAIT = 120.0  # [s], for another thread or process

MACELES_OFF = {
    "elements": [1, 6, 7, 8, 9, 15, 16, 17, 35, 53],
    "channels": 24,
    "max_L": 1,
    "interactions": 2,
    "correlation": 3,
    "num_bessel": 8,
    "cutoff": 4.5,
    "radial_MLP": [64, 64, 64],
    "readout_width": 16,
    "vintage": "old",
}


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, well or badly, and counts how often it was asked for."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.payload = payload
        self.sent: int | None = None  # bytes of the payload that are sent; None for all
        self.endless = False  # whether the payload is sent again and again
        self.hold = False  # whether to wait in the middle for `go_on`
        self.half_way, self.go_on = threading.Event(), threading.Event()
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        if self.path != f"/models/{PUBLISHED.file}":
            self.send_error(404)
            return
        self.send_response(200)
        if server.endless:
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                while not server.go_on.is_set():
                    self.wfile.write(server.payload)
            return
        self.send_header("Content-Length", str(len(server.payload)))
        self.end_headers()
        body = server.payload[: server.sent]
        middle = len(body) // 2
        with contextlib.suppress(ConnectionError):  # the client may have been killed
            self.wfile.write(body[:middle])
            self.wfile.flush()
            if server.hold:
                server.half_way.set()
                server.go_on.wait(WAIT)
            self.wfile.write(body[middle:])

    def log_message(self, *_: object) -> None:
        """Nothing: tests compare what is printed."""


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """``serve(payload)`` starts a server, which the catalogue takes for the authors'."""
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with contextlib.ExitStack() as stack:

        def start(payload: bytes) -> Server:
            server = stack.enter_context(Server(payload))
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(thread.join, WAIT)
            stack.callback(server.shutdown)
            stack.callback(server.go_on.set)
            publish(payload, server.url)
            return server

        def publish(payload: bytes, url: str) -> None:
            file = tmp_path / "payload"
            file.write_bytes(payload)
            blob = catalog.git_blob_id(file)
            model = replace(PUBLISHED, base_url=url, blob=blob)
            monkeypatch.setattr(catalog, "MODELS", (model,))

        yield start


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> bytes:
    """The smallest model file there is."""
    folder = tmp_path_factory.mktemp("tiny")
    return synthetic_model(folder, vintage="old", **TINY).read_bytes()


def in_cache() -> list[str]:
    """Files in the cache, except locks."""
    folder = artifact.cache_directory() / "models"
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def child() -> subprocess.Popen[str]:
    """Another process that asks for the model, and says so before it does."""
    model = catalog.MODELS[0]
    code = f"""
        from dataclasses import replace
        from openmm_les import catalog
        model = replace(catalog.MODELS[0], base_url={model.base_url!r}, blob={model.blob!r})
        catalog.MODELS = (model,)
        print("ready", flush=True)
        print(catalog.artifact_path("maceles-off"))
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def command(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command line."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    captured = capsys.readouterr()
    return stopped.value.code, captured.out, captured.err


def assert_tells_the_way_by_hand(message: str) -> None:
    model = catalog.MODELS[0]
    assert "\n" not in message
    assert message.startswith("maceles-off-small: ")
    assert model.url in message
    assert f"openmm-les export {model.file}" in message
    assert "modelPath='maceles-off-small.les.pt'" in message


def test_names_and_entries():
    assert catalog.names() == ("maceles-off-small", "maceles-off", "les-demo", "les-demo-x")
    assert catalog.entry("maceles-off") is catalog.entry("maceles-off-small")
    assert PUBLISHED.url.endswith("/MACELES-OFF/MACELES-OFF_small.model")
    assert PUBLISHED.licence == "CC BY-NC 4.0"
    with pytest.raises(InputError, match=r"expected one of maceles-off-small, .*, got 'x'"):
        catalog.entry("x")


def test_bundled_model_needs_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "none"))
    path = catalog.artifact_path("les-demo")
    assert path == catalog.where("les-demo")
    assert artifact.load(path).metadata["licence"] == "MIT"
    assert not (tmp_path / "none").exists()


def test_every_name_has_an_entry_point():
    text = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    for name in catalog.names():
        assert f'\n{name} = "openmm_les.plugin.factory:LESPotentialImplFactory"\n' in text


def test_git_blob_id(tmp_path):
    """As ``git hash-object`` says of these two."""
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert catalog.git_blob_id(file) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    file.write_bytes(b"hello\n")
    assert catalog.git_blob_id(file) == "ce013625030ba8dba906f756967f9e9ca394464a"


@needs_mace
def test_first_use_downloads_and_later_ones_need_no_server(serve, tiny):
    server = serve(tiny)
    assert catalog.where("maceles-off") is None
    path = catalog.artifact_path("maceles-off")
    assert server.requests == 1
    assert path == catalog.where("maceles-off-small")
    assert path.parent == artifact.cache_directory() / "models"
    assert len(in_cache()) == 2  # the published file and the exported one
    metadata = artifact.inspect(path)
    assert metadata["licence"] == "CC BY-NC 4.0"
    assert "Kim et al." in metadata["citation"]
    assert metadata["verification"]["status"] == "verified"

    before = path.stat().st_mtime_ns
    assert catalog.artifact_path("maceles-off-small") == path
    assert (server.requests, path.stat().st_mtime_ns) == (1, before)


@needs_mace
def test_damaged_cache_mends_itself(serve, tiny):
    server = serve(tiny)
    path = catalog.artifact_path("maceles-off")
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"extra/canonical.pt") + 5000] ^= 0xFF
    for damaged in (content[:1000], bytes(flipped)):
        path.write_bytes(damaged)
        assert catalog.where("maceles-off") is None
        catalog.open_model("maceles-off")
    assert server.requests == 1  # the published file is still there

    (source,) = path.parent.glob("*.model")
    source.write_bytes(source.read_bytes()[:1000])
    path.unlink()
    artifact.load(catalog.artifact_path("maceles-off"))
    assert server.requests == 2


@needs_mace
def test_another_version_exports_again_without_a_download(serve, tiny, monkeypatch):
    server = serve(tiny)
    first = catalog.artifact_path("maceles-off")
    monkeypatch.setattr(catalog, "__version__", "99.0")
    second = catalog.artifact_path("maceles-off")
    assert first != second
    assert first.exists()
    assert server.requests == 1


@needs_mace
def test_mirror(serve, tiny):
    mirror = serve(tiny)
    authors = serve(tiny)
    catalog.artifact_path("maceles-off", base_url=mirror.url)
    assert (mirror.requests, authors.requests) == (1, 0)


def test_wrong_content_is_refused(serve):
    server = serve(b"the published file")
    server.payload = b"something else, of any size"
    with pytest.raises(DownloadError, match=r"got [0-9a-f]{40} \(27 bytes\)") as caught:
        catalog.artifact_path("maceles-off")
    assert "expected the git blob id " + catalog.MODELS[0].blob in str(caught.value)
    assert_tells_the_way_by_hand(str(caught.value))
    assert in_cache() == []


def test_endless_body_is_given_up(serve, monkeypatch):
    """A server, or what stands between, may send for ever."""
    server = serve(bytes(100_000))
    server.endless = True
    monkeypatch.setattr(catalog, "MODELS", (replace(catalog.MODELS[0], largest=1_000_000),))
    with pytest.raises(DownloadError, match="expected less than 1000000 bytes, got more") as caught:
        catalog.artifact_path("maceles-off")
    assert_tells_the_way_by_hand(str(caught.value))
    assert in_cache() == []


def test_published_models_have_a_largest_size():
    assert all(model.largest >= 1_000_000 for model in catalog.MODELS if model.url)


def test_damaged_bundled_model_says_how_to_get_it_back(tmp_path, monkeypatch):
    content = bytearray(catalog.artifact_path("les-demo").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "les-demo.les.pt").write_bytes(content)
    monkeypatch.setattr(catalog, "_BUNDLED", tmp_path)
    assert catalog.where("les-demo") is None
    with pytest.raises(ArtifactError, match="pip install --force-reinstall --no-deps openmm-les"):
        catalog.open_model("les-demo")


@needs_mace
def test_cache_on_a_full_disk(serve, tiny, monkeypatch):
    """The export fails where the download succeeded, and leaves nothing."""
    serve(tiny)

    def full(*_, **__):
        raise OutputError("cannot write it: No space left on device")

    monkeypatch.setattr("openmm_les.artifact.file.write_atomically", full)
    with pytest.raises(DownloadError, match=r"No space left on device; set OPENMM_LES_CACHE_DIR"):
        catalog.artifact_path("maceles-off")
    assert [name for name in in_cache() if not name.endswith(".model")] == []


def test_missing_file(serve):
    server = serve(b"the published file")
    with pytest.raises(DownloadError, match="the server answered 404 Not Found") as caught:
        catalog.artifact_path("maceles-off", base_url=f"{server.url}/gone")
    assert_tells_the_way_by_hand(str(caught.value))
    assert in_cache() == []


def test_truncated_body(serve):
    server = serve(bytes(100_000))
    server.sent = 60_000
    with pytest.raises(DownloadError, match="the transfer was cut short") as caught:
        catalog.artifact_path("maceles-off")
    assert_tells_the_way_by_hand(str(caught.value))
    assert in_cache() == []


def test_offline(serve):
    server = serve(b"the published file")
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match=r"no connection to the server \(offline\?\)") as caught:
        catalog.artifact_path("maceles-off")
    assert_tells_the_way_by_hand(str(caught.value))


def test_silent_server_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(catalog, "READ_TIMEOUT_S", 0.2)
    server = serve(bytes(100_000))
    server.hold = True
    with pytest.raises(DownloadError) as caught:
        catalog.artifact_path("maceles-off")
    assert "within 0.2 s" in str(caught.value)
    assert in_cache() == []


def test_cache_that_cannot_be_written(serve, tmp_path):
    serve(b"the published file")
    (tmp_path / "cache").write_text("a file, where a directory should be")
    with pytest.raises(DownloadError, match="set OPENMM_LES_CACHE_DIR"):
        catalog.artifact_path("maceles-off")


def test_endless_wait_is_ended(serve, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(catalog, "LOCK_TIMEOUT_S", 0.1)
    serve(b"the published file")
    folder = artifact.cache_directory() / "models"
    folder.mkdir(parents=True)
    with (
        FileLock(folder / ".maceles-off-small.lock"),
        pytest.raises(DownloadError, match="another process"),
    ):
        catalog.artifact_path("maceles-off")


@needs_mace
def test_killed_download_leaves_nothing_in_the_way(serve, tiny):
    server = serve(tiny)
    server.hold = True
    process = child()
    assert server.half_way.wait(WAIT)
    process.kill()
    process.communicate(timeout=WAIT)
    assert catalog.where("maceles-off") is None
    server.hold = False
    server.go_on.set()
    artifact.load(catalog.artifact_path("maceles-off"))
    assert server.requests == 2
    assert len(in_cache()) == 2


@needs_mace
def test_two_processes_download_once(serve, tiny):
    server = serve(tiny)
    server.hold = True
    first = child()
    assert server.half_way.wait(WAIT)
    second = child()
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1.0)
    server.go_on.set()
    outputs = [process.communicate(timeout=WAIT) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    path = catalog.where("maceles-off")
    assert [out for out, _ in outputs] == [f"{path}\n"] * 2
    assert server.requests == 1
    assert len(in_cache()) == 2


@needs_mace
def test_potential_by_name(serve, tmp_path_factory, caplog):
    """The published architecture with fewer channels, from the server to an energy."""
    folder = tmp_path_factory.mktemp("full")
    server = serve(synthetic_model(folder, **MACELES_OFF).read_bytes())
    ethanol = ase.build.molecule("CH3CH2OH")
    topology = topology_from_atoms(ethanol)
    energies = []
    for name in ("maceles-off", "maceles-off-small"):
        options = {"precision": "double", "returnEnergyType": "energy", "device": "cpu"}
        system = MLPotential(name).createSystem(topology, **options)
        energies.append(energy_and_forces(create_context(system, ethanol.positions))[0])
    expected, _ = of_calculator(catalog.where("maceles-off"), ethanol)
    np.testing.assert_allclose(energies, expected, rtol=0, atol=1e-9 * len(ethanol))
    assert server.requests == 1
    told = [r for r in caplog.records if "CC BY-NC 4.0" in r.getMessage()]
    assert len(told) == 1


@needs_mace
def test_a_path_takes_precedence(serve, tiny, tmp_path):
    server = serve(tiny)
    mine = catalog.artifact_path("maceles-off").rename(tmp_path / "mine.les.pt")
    implementation = LESPotentialImplFactory().createImpl("maceles-off", modelPath=mine)
    assert implementation.modelPath == mine
    with pytest.raises(ArtifactError, match="does not exist"):
        LESPotentialImplFactory().createImpl("maceles-off", modelPath=tmp_path / "none.les.pt")
    assert server.requests == 1


def test_misspelt_options_do_not_download(serve):
    server = serve(b"the published file")
    with pytest.raises(InputError, match="modlePath"):
        LESPotentialImplFactory().createImpl("maceles-off", modlePath="my.les.pt")
    assert server.requests == 0


@needs_mace
def test_command_line(serve, tiny, capsys):
    serve(tiny)
    status, out, _ = command(capsys, "models", "list")
    assert status == 0
    assert "maceles-off-small or maceles-off\n" in out
    assert re.search(r"licence +CC BY-NC 4.0\n", out)
    assert re.search(r"exported +not yet\n", out)
    status, _, err = command(capsys, "models", "where", "maceles-off")
    assert status == 2
    assert "openmm-les models download maceles-off" in err

    status, out, _ = command(capsys, "models", "download", "maceles-off")
    path = catalog.where("maceles-off")
    assert status == 0
    assert str(path) in out
    assert "CC BY-NC 4.0" in out
    assert command(capsys, "models", "where", "maceles-off") == (0, f"{path}\n", "")
    status, out, _ = command(capsys, "models", "list", "--json")
    (row,) = json.loads(out)
    assert (row["name"], row["aliases"]) == ("maceles-off-small", ["maceles-off"])
    assert row["path"] == str(path)
    assert row["blob"] == catalog.MODELS[0].blob


def test_command_line_errors_are_one_line(serve, capsys):
    server = serve(b"the published file")
    server.payload = b"something else"
    status, _, err = command(capsys, "models", "download", "maceles-off")
    assert status == 2
    assert err.startswith("openmm-les: error: maceles-off-small: ")
    assert err.count("\n") == 1
    status, _, err = command(capsys, "models", "where", "x")
    assert status == 2
    assert "expected one of" in err


@pytest.mark.network
def test_published_model(tmp_path, monkeypatch):
    """The real file, on openmm-ml's toluene, against the energy in openmm-ml's own test.

    That figure is of a converted copy of the file, in mace-torch; its test allows 1e-6 of it.
    """
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path))
    pdb = tmp_path / "toluene.pdb"
    tests = "https://raw.githubusercontent.com/openmm/openmm-ml/24436104e95607e5ccaa957f3d381aa600c1872d/test"
    answer = requests.get(f"{tests}/data/toluene/toluene.pdb", timeout=30)
    answer.raise_for_status()
    pdb.write_bytes(answer.content)
    toluene = app.PDBFile(str(pdb))
    potential = MLPotential("maceles-off")
    system = potential.createSystem(
        toluene.topology, precision="double", returnEnergyType="energy", device="cpu"
    )
    positions = toluene.getPositions(asNumpy=True)._value * 10.0
    energy, _ = energy_and_forces(create_context(system, positions))
    assert energy * KJ_PER_MOL_PER_EV == pytest.approx(-713467.9354591698, rel=1e-6)
