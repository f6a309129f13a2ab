"""Damaged and hostile model files: each gives one line with its name, at once and cheaply."""

import dataclasses
import json
import math
import resource
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import torch
from openmm_les_export import read_model
from openmm_les_export.checkpoints.records import describe
from support import hostile
from support.checkpoints import EXPORT_OPTIONS, checkpoint
from support.helpers import ROOT

from openmm_les import artifact as artifacts
from openmm_les import catalog
from openmm_les.errors import ArtifactError, InputError, ModelFileError
from openmm_les.files.archives import Archive
from openmm_les.files.pickles import load as load_pickle
from openmm_les.files.reading import Damage

#: What reading may take beside a multiple of the file's size.
ALLOWANCE, MULTIPLE = 160 * 2**20, 8
SECONDS = 10  # a hundred times what it takes, for busy machines

CHILD = """
import json, sys, time
from pathlib import Path
from openmm_les import artifact, networks
from openmm_les.artifact import schema
from openmm_les_export import read_model
import openmm_les_export.families.cace.reader
import openmm_les_export.families.mace.reader
import openmm_les_export.families.nequip.reader

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024

def read(path):
    if not path.name.endswith(".les.pt"):
        return read_model(path)
    return artifact.load(path).canonical

for path in sorted(Path(sys.argv[1]).iterdir()):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = memory("VmRSS"), time.perf_counter()
    try:
        found = type(read(path)).__name__, ""
    except BaseException as error:
        found = type(error).__name__, str(error)
    took = time.perf_counter() - start
    print(json.dumps([path.name, *found, took, memory("VmHWM") - before]), flush=True)
"""


def read_in_child(folder: Path) -> dict[str, tuple[str, str, float, int]]:
    """What reading each file of a folder gave, seconds and bytes of memory it took."""
    limit = 16 * 2**30  # of address space, most of which torch takes without using it
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    found = {name: tuple(rest) for name, *rest in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"after {list(found)[-1:]}: {done.stderr[-2000:]}"
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every hostile file, read in one process."""
    folder = tmp_path_factory.mktemp("hostile")
    real = BytesIO()
    torch.save({"hyper_parameters": {}, "state_dict": {"a": torch.rand(1000)}}, real)
    small = BytesIO()
    torch.save({}, small)
    for name, content in hostile.checkpoints(real.getvalue(), small.getvalue()):
        (folder / f"{name}.model").write_bytes(content)
    for name, content in hostile.artifacts(catalog.artifact_path("les-demo")):
        (folder / f"{name}.les.pt").write_bytes(content)
    return folder, read_in_child(folder)


def test_every_hostile_file_is_one_line_that_names_it(outcomes):
    folder, found = outcomes
    assert len(found) == len(list(folder.iterdir())) > 150
    expected = {".model": ("ModelFileError", "UnsupportedModelError"), ".pt": ("ArtifactError",)}
    wrong = {
        name: outcome
        for name, outcome in found.items()
        if outcome[0] not in expected[Path(name).suffix]
        or name not in outcome[1]
        or not outcome[1].isprintable()
        or " ()" in outcome[1]
    }
    assert not wrong


def test_no_hostile_file_takes_more_than_its_size_allows(outcomes):
    folder, found = outcomes
    greedy = {
        name: (seconds, memory)
        for name, (_, _, seconds, memory) in found.items()
        if seconds > SECONDS or memory > MULTIPLE * (folder / name).stat().st_size + ALLOWANCE
    }
    assert not greedy


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("storage_of_2000.les.pt", "storage 0: 16000 bytes asked for, 64 in the file"),
        ("key_of_bytes.model", "a storage has no name or no size"),
        ("count_is_true.les.pt", "a storage has no name or no size"),
        ("one_number_repeated.model", "reads beyond the end of its storage of 8"),
        ("overlapping.model", "members of the archive overlap"),
        ("doubled_60.model", "its parts repeat until they are more than"),
        ("long_key.model", "its parts repeat until they are more than"),
        ("many_copies_of_a_text.les.pt", "its parts repeat until they are more than"),
        ("deep_tuples.model", "more than 100 levels of nesting"),
        ("metadata_deflated.les.pt", "metadata.json is compressed"),
        ("without_hyper.les.pt", "hyper: field required"),
        ("code.les.pt", "it calls for os.system"),
        ("escape.model", r"os.\u001b[31msystem"),
    ],
)
def test_the_line_says_what_is_wrong(outcomes, file, said):
    assert said in outcomes[1][file][1]


def test_reading_takes_a_small_multiple_of_the_size(tmp_path):
    """Of files that are as they should be, but for their content."""
    weights = BytesIO()
    torch.save({"a": torch.rand(4 * 10**6, dtype=torch.float64)}, weights)
    content = hostile.rewritten(catalog.artifact_path("les-demo"), canonical=weights.getvalue())
    (tmp_path / "large.les.pt").write_bytes(content)
    torch.save({"hyper_parameters": {}, "state_dict": {"a": torch.rand(8 * 10**6)}}, tmp_path / "x")
    for name, (_, text, seconds, memory) in read_in_child(tmp_path).items():
        assert name in text
        assert memory < 4 * (tmp_path / name).stat().st_size
        assert seconds < SECONDS


# --- what is not hostile


def test_reads_what_torch_reads(tmp_path):
    base = torch.arange(24, dtype=torch.float64).view(4, 6)
    content = {
        "shared": [base, base.t(), base[1:, ::2], base[2]],
        "types": [torch.arange(3), torch.tensor([1, 2], dtype=torch.int32), torch.rand(2).float()],
        "small": [
            torch.tensor(2.5),
            torch.zeros(0),
            torch.zeros(0, 3),
            torch.tensor([True, False]),
        ],
        "repeated": torch.ones(1).expand(5),
        "parameter": torch.nn.Parameter(torch.rand(2, 2)),
        "state": torch.nn.Linear(2, 3).state_dict(),
        "plain": {"a": (1, -1, 2**40, -(2**40), 1.5, None, True), (1, 2): [], 3: "text é"},
        "set": {"a", "b"},
    }
    path = tmp_path / "x.pt"
    torch.save(content, path)
    ours, theirs = load_pickle(Archive(path.read_bytes())), torch.load(path, weights_only=True)

    def same(one, other):
        if isinstance(other, torch.Tensor):
            assert one.dtype == other.dtype
            assert one.stride() == other.stride()
            assert torch.equal(one, other)
        elif isinstance(other, list | tuple):
            assert type(one) is type(other)
            for a, b in zip(one, other, strict=True):
                same(a, b)
        elif isinstance(other, dict):
            assert list(one) == list(other)
            same(list(one.values()), list(other.values()))
        else:
            assert one == other

    same(ours, theirs)
    ours["shared"][0][1, 0] = 77.0  # views of one storage stay views of it
    assert ours["shared"][1][0, 1] == ours["shared"][2][0, 0] == 77.0


def test_values_that_contain_themselves_are_described():
    value = []
    value.append(value)
    for _ in range(200):
        value = (value, value)
    assert len(describe(value)) <= 60


# --- contents that cannot be


def set_les(les, **values):
    """Parameters of the les package, with what it derives from them."""
    ewald, bec = les.module("ewald").state, les.module("bec").state
    ewald |= values
    ewald |= {"sigma_sq_half": ewald["sigma"] ** 2 / 2}
    ewald |= {"k_sq_max": (2 * math.pi / ewald["dl"]) ** 2}
    bec["normalization_factor"] = bec["epsilon_factor"] ** 0.5


def widen(record):
    record.state["irreps_in"] = f"{10**9}x0e"


def repeat_layers(model):
    for name in ("interactions", "products", "readouts", "les_readouts"):
        modules = model.module(name).state["_modules"]
        modules |= {str(i): modules["1"] for i in range(2, 60)}
    model.state["_buffers"]["num_interactions"] = torch.tensor(60)


EXPORTS = [
    ("les.sigma", lambda m: set_les(m.module("les"), sigma=1e-9)),
    ("les.sigma", lambda m: set_les(m.module("les"), sigma=1e6)),
    ("les.dl", lambda m: set_les(m.module("les"), dl=1e-9)),
    ("les.prefactor", lambda m: set_les(m.module("les"), norm_factor=-1.0)),
    ("remove_self", lambda m: set_les(m.module("les"), remove_self_interaction="no")),
    ("expected irreps", lambda m: widen(m.module("interactions.0.linear"))),
    ("hyper.cutoff_order", lambda m: _set(m, "radial_embedding.cutoff_fn", "p", 10**6)),
    ("hyper.layers", repeat_layers),
    ("infinity or more in layers.0.energy.0", lambda m: _set(m, "scale_shift", "scale", 1e300)),
]


def _set(model, module, name, value):
    model.module(module).state["_buffers"][name] = torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("said", "change"), EXPORTS)
def test_checkpoint_with_impossible_content(said, change):
    """What passes through the reader of a family meets the bounds that artifacts have."""
    from openmm_les_export.checkpoints.unpickle import open_model
    from openmm_les_export.families.dispatch import canonical_model

    opened = open_model(ROOT / "training" / "les_demo" / "les-demo.model")
    canonical_model(opened)
    change(opened.root)
    with pytest.raises(ModelFileError, match=r"^model: .*les-demo\.model") as caught:
        canonical_model(opened)
    assert said in str(caught.value)


@pytest.mark.parametrize("exponents", [[0, 0, 10**9], [0, -1, 2]])
def test_exponents_are_bounded(exponents, tmp_path):
    from openmm_les_export.checkpoints.unpickle import open_model
    from openmm_les_export.families.dispatch import canonical_model
    from openmm_les_export.options import ModelOptions

    opened = open_model(checkpoint("cace", tmp_path))
    opened.root.module("representation.angular_basis").state["lxlylz_list"][-1] = exponents
    with pytest.raises(ModelFileError, match="expected exponents of 0 to 11"):
        canonical_model(opened, ModelOptions(**EXPORT_OPTIONS["cace"]))


WRONG = [
    ("hyper.cutoff", lambda m: m["hyper"].update(cutoff=-4.5)),
    ("hyper.cutoff", lambda m: m["hyper"].update(cutoff=1e4)),
    ("hyper.cutoff", lambda m: m["hyper"].update(cutoff="4.5")),
    ("cutoff", lambda m: m.update(cutoff=4.0)),
    ("different elements", lambda m: m["hyper"].update(elements=[1, 1, 6, 8])),
    ("hyper.elements", lambda m: m["hyper"].update(elements=[])),
    ("hyper.elements.1", lambda m: m["hyper"].update(elements=[1, 119])),
    ("hyper.cutoff_order", lambda m: m["hyper"].update(cutoff_order=-5)),
    ("hyper.cutoff_order", lambda m: m["hyper"].update(cutoff_order=10**9)),
    ("hyper.channels", lambda m: m["hyper"].update(channels=True)),
    ("hyper.lmax", lambda m: m["hyper"].update(lmax=10**6)),
    ("hyper.surprise", lambda m: m["hyper"].update(surprise=1)),
    ("hyper.layers", lambda m: m["hyper"].update(layers=[])),
    ("degrees up to", lambda m: m["hyper"]["layers"][0]["paths"].append([0, 1, 3])),
    ("les.sigma", lambda m: m["les"].update(sigma=1e-9)),
    ("finite", lambda m: m["les"].update(sigma=float("inf"))),
    ("les.dl", lambda m: m["les"].update(dl=1e-9)),
    ("les.prefactor", lambda m: m["les"].update(prefactor=-90.0)),
    ("les.remove_self", lambda m: m["les"].update(remove_self_interaction="no")),
    ("les.remove_self", lambda m: m["les"].update(remove_self_interaction=1)),
    ("les.bec_epsilon_factor", lambda m: m["les"].pop("bec_epsilon_factor")),
    ("licence", lambda m: m.update(licence=5)),
]


@pytest.mark.parametrize(("said", "change"), WRONG)
def test_artifact_with_impossible_metadata(tmp_path, said, change):
    path = tmp_path / "wrong.les.pt"
    path.write_bytes(hostile.rewritten(catalog.artifact_path("les-demo"), change))
    for read in (artifacts.inspect, artifacts.load):
        with pytest.raises(ArtifactError, match=r"wrong\.les\.pt is corrupt") as caught:
            read(path)
        assert said in str(caught.value)


def demo_state():
    return dict(artifacts.load(catalog.artifact_path("les-demo")).canonical.state)


@pytest.mark.parametrize(
    ("said", "change"),
    [
        ("expected a tensor layers.1.mix.2, got none", lambda s: s.pop("layers.1.mix.2")),
        ("unknown tensor extra", lambda s: s.update(extra=torch.zeros(1).double())),
        ("embedding: expected shape", lambda s: s.update(embedding=s["embedding"][:, :1])),
        ("infinity or more in embedding", lambda s: s["embedding"].fill_(float("inf"))),
        ("expected torch.float64", lambda s: s.update(embedding=s["embedding"].float())),
        ("expected tensors", lambda s: s.update(embedding=[1.0])),
    ],
)
def test_artifact_with_weights_that_do_not_fit(tmp_path, said, change):
    state, weights = demo_state(), BytesIO()
    change(state)
    torch.save(state, weights)
    path = tmp_path / "wrong.les.pt"
    source = catalog.artifact_path("les-demo")
    path.write_bytes(hostile.rewritten(source, canonical=weights.getvalue()))
    with pytest.raises(ArtifactError, match=said):
        _ = artifacts.load(path).canonical


def test_what_cannot_be_is_not_saved_either(tmp_path):
    canonical = artifacts.load(catalog.artifact_path("les-demo")).canonical
    wrong = dataclasses.replace(canonical, les={**canonical.les, "dl": 1e-9})
    with pytest.raises(InputError, match=r"les\.dl.*nothing was written"):
        artifacts.save(wrong, tmp_path / "x.les.pt")
    assert not list(tmp_path.iterdir())


def test_weights_are_those_whose_hash_is_recorded(tmp_path):
    source = catalog.artifact_path("les-demo")
    path = tmp_path / "model.les.pt"
    path.write_bytes(source.read_bytes())
    opened, again = artifacts.load(path), artifacts.load(path)
    path.write_bytes(hostile.rewritten(source, lambda m: m.update(licence="another")))
    for read in (lambda: opened.canonical, lambda: again.module):
        with pytest.raises(ArtifactError, match=r"model\.les\.pt has changed since it was opened"):
            read()


def test_nothing_of_a_file_reaches_the_terminal_as_a_command(tmp_path, capsys):
    from openmm_les.cli import main

    path = tmp_path / "model.les.pt"
    escapes = "\x1b]0;owned\x07 \x9b31m \u202egnp.exe \ud800"
    change = {"licence": escapes, "source": {f"key{escapes}": [escapes]}}
    content = hostile.rewritten(catalog.artifact_path("les-demo"), lambda m: m.update(change))
    path.write_bytes(content)
    for arguments in (["inspect"], ["inspect", "--json"]):
        with pytest.raises(SystemExit) as done:
            main([*arguments, str(path)])
        assert done.value.code == 0
        shown = capsys.readouterr().out
        assert "owned" in shown
        assert all(c.isprintable() or c == "\n" for c in shown)


@pytest.mark.parametrize("kind", ["fifo", "huge"])
def test_what_never_ends_is_not_read(tmp_path, kind):
    import os

    path = tmp_path / "x.model"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        with path.open("wb") as stream:
            stream.truncate(2**40)  # takes no space
    with pytest.raises(ModelFileError, match=r"x\.model"):
        read_model(path)
    with pytest.raises(ArtifactError, match=r"x\.model"):
        artifacts.load(path)


def test_an_error_about_a_file_always_has_a_reason():
    from openmm_les.files.reading import Kind, boundary

    kind = Kind(ArtifactError, "modelPath", "modelPath: {file} is corrupt ({reason}); ...")
    for error in (EOFError(), KeyError("hyper"), RecursionError(), MemoryError(), Damage("x\ny")):
        said = r"^modelPath: a\.pt is corrupt \([A-Za-z].*\); \.\.\.$"
        with pytest.raises(ArtifactError, match=said), boundary("a.pt", kind):
            raise error
