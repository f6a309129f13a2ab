"""Reading MACE-LES files: safety, error lines, every vintage, and the canonical form itself."""

from __future__ import annotations

import builtins
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les_export import unpickle
from openmm_les_export.mace import canonical_mace, read_mace
from openmm_les_export.monomials import coupling_monomials, reduce_rank
from openmm_les_export.records import parse_irreps, stand_in
from openmm_les_export.unpickle import read_pickle, scan_globals

ROOT = Path(__file__).parents[1]
MODELS = ROOT.parent / "shared" / "models"
REAL = ("mace_les_water_r4.5_nl1_l0", "mace_les_dipep_r4_l0", "mace_les_newformat_random_L2")
TINY = {"max_ell": 1, "correlation": 1, "channels": 2, "radial_MLP": [4]}


def needs_mace(test):
    """Marks a test that builds or evaluates models with mace-torch."""
    missing = importlib.util.find_spec("mace") is None
    return pytest.mark.mace(pytest.mark.skipif(missing, reason="mace-torch is not installed")(test))


def real_model(name: str) -> Path:
    path = MODELS / f"{name}.model"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside this checkout (its licence forbids shipping it)")
    return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("synthetic_models")


@pytest.fixture
def tiny(model_dir) -> unpickle.PickledModel:
    """A small supported model, freshly opened so that a test may change its record."""
    from oracles.mace_models import synthetic_model

    return read_pickle(synthetic_model(model_dir, **TINY))


def error_line(path: Path, kind: type[Exception] = ModelFileError) -> str:
    with pytest.raises(kind) as caught:
        read_mace(path)
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
    """Even without the scan torch's restricted unpickler must be the one that opens the file."""
    sentinel = tmp_path / "ran"
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(unpickle, "_check_globals", lambda file, names: None)
    path = _torch_zip(tmp_path / "hostile.model", _payload(_System(sentinel)))
    assert "posix" in error_line(path)
    assert not sentinel.exists()


def test_functions_that_weights_only_would_allow_are_refused_too(tmp_path):
    data = _payload(torch.device("cpu"))
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
    line = error_line(path)
    assert "this is a TorchScript archive" in line or "is a TorchScript archive" in line
    assert "export from the original .model file" in line


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
    assert "no MACE-LES model" in line
    assert "torch.nn.modules.linear.Linear" in line


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


# --- unsupported options ------------------------------------------------------------------------

TWO_HEADS = {
    "heads": ["a", "b"],
    "atomic_energies": [[-1.0, -2.0], [-1.0, -3.0]],
    "atomic_inter_scale": [1.0, 1.0],
    "atomic_inter_shift": [0.0, 0.0],
}
OPTIONS = [
    ({"apply_cutoff": False}, "apply_cutoff"),
    ({"distance_transform": "Agnesi"}, "Agnesi distance transform"),
    ({"distance_transform": "Soft"}, "Soft distance transform"),
    ({"radial_type": "gaussian"}, "Gaussian radial basis"),
    ({"radial_type": "chebyshev"}, "Chebyshev radial basis"),
    ({"pair_repulsion": True}, "ZBL pair repulsion"),
    (TWO_HEADS, "option heads"),
    ({"use_agnostic_product": True}, "use_agnostic_product"),
    ({"use_so3": True}, "use_so3"),
    ({"edge_irreps": "2x0e"}, "edge_irreps"),
    ({"gate": "tanh"}, "gate"),
    ({"interaction_cls": "RealAgnosticDensityResidualInteractionBlock"}, "DensityResidual"),
    ({"interaction_cls_first": "RealAgnosticInteractionBlock"}, "RealAgnosticInteractionBlock"),
    ({"interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock"}, "RadialMLP"),
    ({"cueq_config": {"enabled": False}}, "cuEquivariance"),
    ({"hidden_irreps": "2x0e+2x1e"}, "2x1e"),
    ({"hidden_irreps": "2x0e+4x1o"}, "2x0e + 4x1o"),
    ({"correlation": 4}, "correlation"),
]


@needs_mace
@pytest.mark.parametrize(("options", "named"), OPTIONS)
def test_unsupported_option_is_refused_by_name(model_dir, options, named):
    from oracles.mace_models import synthetic_model

    path = synthetic_model(model_dir, **TINY, options=options)
    assert named in error_line(path, UnsupportedModelError)


MUTATIONS = [
    ("spherical_harmonics", "normalize", False),
    ("spherical_harmonics", "normalization", "integral"),
    ("interactions.0", "cueq_config", stand_in("mace.modules.wrapper_ops.CuEquivarianceConfig")()),
    ("interactions.1", "oeq_config", {"enabled": True}),
    ("interactions.1", "sparse", True),
    ("products.0", "use_agnostic_product", True),
    ("radial_embedding", "apply_cutoff", False),
    ("readouts.1", "num_heads", 2),
    ("readouts.0.linear", "bias_numel", 1),
    ("les", "use_atomwise", True),
    ("les", "use_fixed_atomic_charges", True),
    ("les", "use_atomic_alpha", True),
    ("les", "use_epsilon_r_scaling", True),
    ("les", "use_dipole", True),
    ("les", "use_dipole", False),
    ("les.ewald", "use_quadrupole", True),
    ("les.ewald", "use_epsilon_r_scaling", True),
    ("les.ewald", "k_sq_max", 4.0),
    ("les.ewald", "sigma_sq_half", 4.0),
    ("les.bec", "normalization_factor", 2.0),
    ("", "induced_charges", None),
    ("", "use_embedding", True),
]


@needs_mace
@pytest.mark.parametrize(("where", "name", "value"), MUTATIONS)
def test_changed_record_is_refused_by_name(tiny, where, name, value):
    record = tiny.root.module(where) if where else tiny.root
    record.state[name] = value
    with pytest.raises(UnsupportedModelError, match=name):
        canonical_mace(tiny)


@needs_mace
def test_unknown_submodules_and_tensors_are_refused_by_name(tiny):
    model = tiny.root
    model.state["_modules"]["pair_repulsion_fn"] = stand_in("mace.modules.radial.ZBLBasis")()
    with pytest.raises(UnsupportedModelError, match="pair_repulsion_fn.*ZBL pair repulsion"):
        canonical_mace(tiny)
    del model.state["_modules"]["pair_repulsion_fn"]
    model.module("les.ewald").state["_parameters"]["alpha"] = torch.ones(1)
    with pytest.raises(UnsupportedModelError, match=r"les\.ewald\.alpha"):
        canonical_mace(tiny)


@needs_mace
def test_missing_les_parameter_is_not_guessed(tiny):
    del tiny.root.module("les.ewald").state["norm_factor"]
    with pytest.raises(UnsupportedModelError, match="norm_factor"):
        canonical_mace(tiny)


@needs_mace
def test_nan_weights_are_refused(tiny):
    tiny.root.module("readouts.0.linear").tensor("weight")[0] = float("nan")
    with pytest.raises(ModelFileError, match=r"layers\.0\.energy\.0"):
        canonical_mace(tiny)


# --- reading without frameworks -----------------------------------------------------------------

_BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
{code}
"""


def _run_without(blocked: set[str], code: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED.format(blocked=blocked, code=code)],
        env={**os.environ, "PYTHONPATH": paths, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _some_model(model_dir: Path) -> Path:
    """Any model file this installation can offer."""
    if importlib.util.find_spec("mace") is None:
        return real_model(REAL[1])
    from oracles.mace_models import synthetic_model

    return synthetic_model(model_dir, **TINY)


def test_reading_needs_neither_mace_nor_e3nn_nor_les(model_dir):
    path = _some_model(model_dir)
    code = (
        "import json; from openmm_les_export.mace import read_mace; "
        f"m = read_mace({str(path)!r}); print(json.dumps([m.hyper, m.les, m.source]))"
    )
    expected = read_mace(path)
    found = json.loads(_run_without({"mace", "e3nn", "les", "matscipy", "ase"}, code))
    assert found == [expected.hyper, expected.les, expected.source]


def test_importing_the_export_wing_imports_no_torch():
    _run_without({"torch", "mace", "e3nn", "openmm"}, "import openmm_les_export")


def test_classes_marked_as_safe_elsewhere_do_not_replace_the_stand_ins(model_dir):
    path = _some_model(model_dir)
    name = "e3nn.o3._irreps.Irreps"
    with torch.serialization.safe_globals([(dict, name)]):
        read_mace(path)
        assert (dict, name) in torch.serialization.get_safe_globals()


# --- canonical form -----------------------------------------------------------------------------


def expected_shapes(hyper: dict, state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes as docs/design.md defines them; widths and ranks are free."""
    z, c, lmax = len(hyper["elements"]), hyper["channels"], hyper["lmax"]
    size = 1 + (lmax + 1) ** 2
    shapes = {
        "reference_energies": (z,),
        "embedding": (z, c),
        "bessel_frequencies": (hyper["num_bessel"],),
    }
    for t, layer in enumerate(hyper["layers"]):
        prefix, paths = f"layers.{t}.", layer["paths"]
        for degree in range(layer["node_lmax"] + 1):
            shapes[f"{prefix}up.{degree}"] = (c, c)
        depth = sum(name.startswith(f"{prefix}radial.") for name in state)
        width = hyper["num_bessel"]
        for k in range(depth):
            out = len(paths) * c if k == depth - 1 else state[f"{prefix}radial.{k}"].shape[1]
            shapes[f"{prefix}radial.{k}"] = (width, out)
            width = out
        for degree in range(lmax + 1):
            count = sum(path[2] == degree for path in paths)
            shapes[f"{prefix}mix.{degree}"] = (count * c, c)
        for degree in range(layer["output_lmax"] + 1):
            rank = state[f"{prefix}product.{degree}.weights"].shape[1]
            monomials = size * (size + 1) * (size + 2) // 6
            shapes[f"{prefix}product.{degree}.basis"] = (rank, 2 * degree + 1, monomials)
            shapes[f"{prefix}product.{degree}.weights"] = (z, rank, c)
            shapes[f"{prefix}output.{degree}"] = (c, c)
        for degree in range(min(layer["node_lmax"], layer["output_lmax"]) + 1):
            shapes[f"{prefix}skip.{degree}"] = (z, c, c)
        for name in ("energy", "charge"):
            h = layer["readout_width"]
            if layer["readout"] == "linear":
                shapes[f"{prefix}{name}.0"] = (c, 1)
            else:
                shapes[f"{prefix}{name}.0"], shapes[f"{prefix}{name}.1"] = (c, h), (h, 1)
    return shapes


def check_schema(model) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state.items()}
    assert shapes == expected_shapes(model.hyper, model.state)
    assert all(t.dtype == torch.float64 and t.is_contiguous() for t in model.state.values())
    assert json.loads(json.dumps(model.hyper)) == model.hyper
    assert json.loads(json.dumps(model.source)) == model.source
    assert model.hyper["layers"][-1]["output_lmax"] == 0


@pytest.mark.parametrize("name", REAL)
def test_real_models_have_the_canonical_form(name):
    model = read_mace(real_model(name))
    check_schema(model)
    new = name == REAL[2]
    expected = (1.1, 1.9, 90.4756, True) if new else (1.0, 2.0, 90.0474, False)
    names = ("sigma", "dl", "prefactor", "remove_self_interaction")
    assert tuple(model.les[key] for key in names) == expected
    assert model.source["vintage"] == ("mace-torch" if new else "MACE-LES fork")
    assert model.source["dtype"] == "float32"
    assert model.source["file"] == f"{name}.model"


CASES = {
    "old, L0": {"vintage": "old"},
    "old, one layer that keeps L1": {"vintage": "old", "interactions": 1, "max_L": 1},
    "new, one layer": {"interactions": 1, "max_ell": 2},
    "three layers, L1": {"interactions": 3, "max_L": 1, "max_ell": 2, "correlation": [3, 2, 1]},
    "L2, float64": {"max_L": 2, "max_ell": 2, "dtype": "float64", "elements": [8, 1, 6]},
    "L2 beyond the edges": {"max_L": 2, "max_ell": 1, "correlation": 2},
    "last readout only": {"options": {"use_last_readout_only": True}, "max_ell": 1},
    "last layer keeps L1": {"options": {"keep_last_layer_irreps": True}, "max_L": 1, "max_ell": 1},
}


@needs_mace
@pytest.mark.parametrize("case", CASES)
def test_canonical_form_is_the_model(model_dir, case):
    """Energies and charges from the canonical tensors, against mace-torch's own forward."""
    from oracles.canonical_mace import short_range
    from oracles.mace_models import original_short_range, synthetic_model

    path = synthetic_model(model_dir, **CASES[case])
    model = read_mace(path)
    check_schema(model)
    assert model.source["vintage"] == ("MACE-LES fork" if "old" in case else "mace-torch")
    assert model.source["dtype"] == CASES[case].get("dtype", "float32")

    from openmm_les_export.probes import probe_structures

    for probe in probe_structures(model.hyper["elements"], model.hyper["cutoff"])[:3]:
        energies, charges, _ = short_range(model, probe.positions, probe.numbers, probe.cell)
        expected = original_short_range(CASES[case], probe.positions, probe.numbers, probe.cell)
        assert float(energies.sum()) == pytest.approx(expected[0], abs=1e-12)
        np.testing.assert_allclose(charges.detach().numpy(), expected[1], atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_monomials_equal_the_contraction_of_the_coupling_tensor(order, degree):
    generator = torch.Generator().manual_seed(7)
    size, k = 9, 4
    shape = [2 * degree + 1] + [size] * order + [k]
    coupling = torch.randn(shape, generator=generator, dtype=torch.float64)
    a = torch.randn(size, generator=generator, dtype=torch.float64)
    basis = coupling_monomials(coupling, order)
    one = torch.cat([torch.ones(1, dtype=torch.float64), a])
    x, y, z = torch.combinations(torch.arange(size + 1), 3, with_replacement=True).T
    found = torch.einsum("kmi,i->km", basis, one[x] * one[y] * one[z])
    expected = coupling
    for _ in range(order):
        expected = torch.tensordot(a, expected.movedim(1, 0), dims=1)
    torch.testing.assert_close(found, expected.T, rtol=1e-13, atol=1e-13)


def test_rank_reduction_keeps_the_polynomials():
    generator = torch.Generator().manual_seed(3)
    independent = torch.randn(3, 5, 20, generator=generator, dtype=torch.float64)
    mixing = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    dependent = torch.einsum("kr,rmi->kmi", mixing, independent)
    zero = torch.zeros(2, 5, 20, dtype=torch.float64)
    weights = [torch.randn(2, k, 6, generator=generator, dtype=torch.float64) for k in (7, 2)]
    basis, reduced = reduce_rank([dependent, zero], weights)
    assert basis.shape == (3, 5, 20)
    torch.testing.assert_close(
        torch.einsum("zrc,rmi->zcmi", reduced, basis),
        torch.einsum("zkc,kmi->zcmi", weights[0], dependent),
        rtol=1e-13,
        atol=1e-13,
    )
    basis, reduced = reduce_rank([zero], [weights[1]])
    assert basis.shape[0] == 1
    assert not bool((torch.einsum("zrc,rmi->zcmi", reduced, basis)).any())


def test_irreps_from_text_and_errors():
    assert [str(i) for i in parse_irreps("128x0e + 1o+ 2x2e", "x")] == ["128x0e", "1x1o", "2x2e"]
    for wrong in ("3x", "ax0e", "", 5, None):
        with pytest.raises(ModelFileError, match="expected irreps"):
            parse_irreps(wrong, "x")
