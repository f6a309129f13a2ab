"""Files that commands write: never over an input, and whole or not at all on a full disk."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from openmm_les_export import export
from support.checkpoints import checkpoint
from support.helpers import ROOT
from support.programs import run_code

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.errors import OutputError
from openmm_les.files.writing import write_atomically

MODEL = ROOT / "training" / "les_demo" / "les-demo.model"
LIMIT = 64 << 10  # [bytes] of a small disk


#: The command line without mace-torch, whose comparison takes longer than everything else.
CODE = "import sys; sys.modules['mace'] = None; from openmm_les.cli import main; main()"


def command(*arguments, before="") -> subprocess.CompletedProcess[str]:
    return run_code(before + CODE, *arguments, folder=os.getcwd())


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, too small for a model."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LIMIT}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# ------------------------------------------------------------------ full disks


def test_export_to_a_full_disk(small_disk):
    """torch would end the process, and leave half a file."""
    done = command("export", MODEL, "-o", small_disk / "my.les.pt")
    assert done.returncode == 2, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "error" in line)
    assert str(small_disk / "my.les.pt") in line
    assert "No space left on device (0.1 MB free in " in line
    assert list(small_disk.iterdir()) == []


def test_export_beyond_the_largest_file(tmp_path):
    """The same for a limit of the process, which needs no disk."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}));"
    done = command("export", MODEL, "-o", tmp_path / "my.les.pt", before=limit)
    assert done.returncode == 2, done.stderr
    assert f"cannot write {tmp_path / 'my.les.pt'}: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_old_file_survives_a_full_disk(small_disk):
    canonical = artifacts.load(catalog.artifact_path("les-demo")).canonical
    path = small_disk / "my.les.pt"
    path.write_text("precious")
    with pytest.raises(OutputError, match="No space left on device"):
        artifacts.save(canonical, path, overwrite=True)
    assert path.read_text() == "precious"
    assert os.listdir(small_disk) == ["my.les.pt"]


def test_cache_on_a_full_disk_holds_nothing_half(small_disk, monkeypatch):
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(small_disk))
    artifacts.store_in_cache(artifacts.load(catalog.artifact_path("les-demo")))
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []


# ------------------------------------------------------------------ how files appear


def test_written_files_have_the_usual_permissions(tmp_path, monkeypatch):
    """In a shared cache too, where others read them."""
    monkeypatch.setenv("OPENMM_LES_CACHE_DIR", str(tmp_path / "cache"))
    artifact = artifacts.load(catalog.artifact_path("les-demo"))
    before = os.umask(0o022)
    try:
        artifacts.store_in_cache(artifact)
        artifacts.save(artifact.canonical, tmp_path / "my.les.pt")
    finally:
        os.umask(before)
    (copy,) = (tmp_path / "cache").rglob("*.les.pt")
    for path in (copy, tmp_path / "my.les.pt"):
        assert path.stat().st_mode & 0o777 == 0o644


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"somebody was faster")
    with pytest.raises(OutputError, match="appeared meanwhile; nothing was written"):
        write_atomically(path, b"mine", overwrite=False)
    assert path.read_bytes() == b"somebody was faster"
    assert os.listdir(tmp_path) == ["file"]


def test_devices_and_pipes_are_no_outputs(tmp_path):
    """A file that is written whole would take the place of the device."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe is not a regular file"):
        export(MODEL, tmp_path / "pipe", overwrite=True)
    assert (tmp_path / "pipe").is_fifo()


# ------------------------------------------------------------------ outputs that are inputs


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with a model, structures and energies, in which commands run."""
    shutil.copy(MODEL, tmp_path / "my.model")
    (tmp_path / "training.xyz").write_text("precious")
    (tmp_path / "energies.json").write_text('{"1": -13.6}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def contents(workplace):
    """Nothing that was there before changes, and nothing appears."""

    def read():
        return {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}

    before = read()
    yield
    after = read()
    assert all(after[path] == content for path, content in before.items())
    assert {path for path in after if path.name.endswith((".part", ".les.pt"))} <= set(before)


@pytest.mark.usefixtures("contents")
@pytest.mark.parametrize(
    "output", ["my.model", "./sub/../my.model", "symbolic", "hard", "folder/my.model", "absolute"]
)
def test_export_never_replaces_its_model(workplace, output):
    os.symlink("my.model", workplace / "symbolic")
    os.link("my.model", workplace / "hard")
    os.symlink(workplace, workplace / "folder")
    (workplace / "sub").mkdir()
    given = workplace / "my.model" if output == "absolute" else output
    with pytest.raises(OutputError, match="is the file that the model reads"):
        export("my.model", given, overwrite=True)
    with pytest.raises(OutputError, match="is the file that the model reads"):
        export(workplace / "folder" / "my.model", given, overwrite=True)


@pytest.mark.usefixtures("contents")
def test_export_command_says_so_in_one_line(workplace):
    done = command("export", "my.model", "-o", "my.model", "--overwrite")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "is the file that MODEL reads (" in done.stderr


@pytest.mark.usefixtures("contents")
@pytest.mark.parametrize(
    ("option", "file"), [("calibrate", "training.xyz"), ("atomic_energies", "energies.json")]
)
def test_export_never_replaces_what_options_read(workplace, option, file):
    for given in (file, workplace / file):
        with pytest.raises(OutputError, match=f"the file that --{option.replace('_', '-')} reads"):
            export("my.model", file, overwrite=True, **{option: given})
    os.link(file, "hard")
    flag = f"--{option.replace('_', '-')}"
    done = command("export", "my.model", "-o", "hard", "--overwrite", flag, file)
    assert done.returncode == 2
    assert f"the file that {flag} reads" in done.stderr


def test_export_writes_into_no_directory_that_is_a_model(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("chgnet", tmp_path), folder)
    os.chmod(folder, 0o755)
    files = sorted(folder.iterdir())
    content = [path.read_bytes() for path in files]
    for path in files:
        with pytest.raises(OutputError, match="of the directory that the model reads"):
            export(folder, path, overwrite=True, self_interaction="removed")
    with pytest.raises(OutputError, match="is a directory"):
        export(folder, folder, overwrite=True, self_interaction="removed")
    assert sorted(folder.iterdir()) == files
    assert [path.read_bytes() for path in files] == content
