"""Reading MACE-LES files: every vintage, every unsupported option, and the canonical form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from openmm_les_export import read_model
from openmm_les_export.checkpoints.records import parse_irreps, stand_in
from openmm_les_export.checkpoints.unpickle import ModelFile, open_model
from openmm_les_export.families.dispatch import canonical_model
from openmm_les_export.families.mace.monomials import coupling_monomials, reduce_rank
from openmm_les_export.options import ModelOptions
from openmm_les_export.verification.probes import probe_structures
from oracles.models import TINY, needs_mace
from support.checkpoints import checkpoint
from support.helpers import L2_MODEL, MACE_MODELS, MODELS, shared_file

from openmm_les.errors import InputError, ModelFileError, UnsupportedModelError


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("synthetic_models")


@pytest.fixture
def tiny(model_dir) -> ModelFile:
    """A small supported model, freshly opened so that a test may change its record."""
    from oracles.mace_models import synthetic_model

    return open_model(synthetic_model(model_dir, **TINY))


# --- unsupported options ------------------------------------------------------------------------

OPTIONS = [
    ({"radial_type": "gaussian"}, "Gaussian radial basis"),
    ({"radial_type": "chebyshev"}, "Chebyshev radial basis"),
    ({"edge_irreps": "2x0e"}, "edge_irreps"),
    ({"gate": "tanh"}, "gate"),
    ({"interaction_cls": "RealAgnosticAttResidualInteractionBlock"}, "attention in messages"),
    ({"interaction_cls": "RealAgnosticResidualNonLinearInteractionBlock"}, "nonlinear messages"),
    ({"cueq_config": {"enabled": False}}, "cuEquivariance"),
    ({"hidden_irreps": "2x0e+2x1e"}, "2x1e"),
    ({"hidden_irreps": "2x0e+4x1o"}, "2x0e + 4x1o"),
]


@needs_mace
@pytest.mark.parametrize(("options", "named"), OPTIONS)
def test_unsupported_option_is_refused_by_name(model_dir, options, named):
    from oracles.mace_models import synthetic_model

    path = synthetic_model(model_dir, **TINY, options=options)
    with pytest.raises(UnsupportedModelError) as caught:
        read_model(path)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


MUTATIONS = [
    ("spherical_harmonics", "normalize", False),
    ("spherical_harmonics", "normalization", "integral"),
    ("interactions.0", "cueq_config", stand_in("mace.modules.wrapper_ops.CuEquivarianceConfig")()),
    ("interactions.1", "oeq_config", {"enabled": True}),
    ("interactions.1", "sparse", True),
    ("products.0", "use_agnostic_product", True),
    ("radial_embedding", "apply_cutoff", False),
    ("products.0.symmetric_contractions.contractions.0", "correlation", 5),
    ("readouts.1", "num_heads", 2),
    ("readouts.0.linear", "bias_numel", 1),
    ("les", "use_atomwise", True),
    ("les", "use_atomic_alpha", True),
    ("les", "use_dipole", True),
    ("les.ewald", "use_quadrupole", True),
    ("les.ewald", "k_sq_max", 4.0),
    ("les.ewald", "sigma_sq_half", 4.0),
    ("les.bec", "normalization_factor", 2.0),
    ("", "induced_charges", 0.5),
    ("", "use_so3", True),
    ("", "use_embedding", True),
]


@needs_mace
@pytest.mark.parametrize(("where", "name", "value"), MUTATIONS)
def test_changed_record_is_refused_by_name(tiny, where, name, value):
    record = tiny.root.module(where) if where else tiny.root
    record.state[name] = value
    with pytest.raises(UnsupportedModelError, match=name):
        canonical_model(tiny)


@needs_mace
def test_attributes_that_are_off_or_empty_change_nothing(tiny):
    expected = canonical_model(tiny).state
    for name, value in (("use_dipole", False), ("kappa_scale", None), ("extra_heads", [])):
        tiny.root.state[name] = tiny.root.module("les").state[name] = value
    found = canonical_model(tiny).state
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@needs_mace
def test_unknown_submodules_and_tensors_are_refused_by_name(tiny):
    model = tiny.root
    model.state["_modules"]["joint_embedding"] = stand_in(
        "mace.modules.embeddings.GenericJointEmbedding"
    )()
    with pytest.raises(UnsupportedModelError, match=r"joint_embedding\.specs"):
        canonical_model(tiny)
    del model.state["_modules"]["joint_embedding"]
    model.module("les.ewald").state["_parameters"]["alpha"] = torch.ones(1)
    with pytest.raises(UnsupportedModelError, match=r"les\.ewald\.alpha"):
        canonical_model(tiny)


@needs_mace
def test_missing_les_parameter_is_not_guessed(tiny):
    del tiny.root.module("les.ewald").state["norm_factor"]
    with pytest.raises(UnsupportedModelError, match="norm_factor"):
        canonical_model(tiny)


@needs_mace
def test_nan_weights_are_refused(tiny):
    tiny.root.module("readouts.0.linear").tensor("weight")[0] = float("nan")
    with pytest.raises(ModelFileError, match=r"readouts\.0\.linear\.weight: expected finite"):
        canonical_model(tiny)


HOSTILE = [
    ("radial_embedding.cutoff_fn", "p", torch.tensor(0), "integer of at least 2"),
    ("radial_embedding.bessel_fn", "prefactor", torch.tensor(float("nan")), "finite number"),
    ("radial_embedding.distance_transform", "covalent_radii", torch.ones(3), "positive radius"),
    ("radial_embedding.distance_transform", "covalent_radii", torch.zeros(119), "positive radius"),
    ("pair_repulsion_fn", "c", torch.ones(3), "expected 4 coefficients, got 3"),
    ("scale_shift", "scale", torch.ones(2), "one entry for each of 1 heads, got 2"),
]


@needs_mace
@pytest.mark.parametrize(("where", "name", "tensor", "said"), HOSTILE)
def test_files_that_contradict_themselves_are_refused(model_dir, where, name, tensor, said):
    from oracles.mace_models import synthetic_model

    options = {"distance_transform": "Agnesi", "pair_repulsion": True}
    pickled = open_model(synthetic_model(model_dir, **TINY, options=options))
    pickled.root.module(where).state["_buffers"][name] = tensor
    with pytest.raises(ModelFileError, match=said):
        canonical_model(pickled)


@needs_mace
@pytest.mark.parametrize("wrong", ["text", torch.zeros(3), None], ids=["text", "zeros", "none"])
def test_whatever_a_file_holds_there_is_one_clear_error(model_dir, wrong):
    from oracles.mace_models import synthetic_model

    options = {"distance_transform": "Agnesi", "pair_repulsion": True}
    assert_one_clear_error(open_model(synthetic_model(model_dir, **TINY, options=options)), wrong)


@pytest.mark.parametrize("wrong", ["text", torch.zeros(3), None], ids=["text", "zeros", "none"])
def test_whatever_a_file_with_moments_holds_there_is_one_clear_error(tmp_path, wrong):
    pickled = open_model(checkpoint("mace_moments", tmp_path))
    assert_one_clear_error(
        pickled, wrong, "les_quad", "les_alpha_1o_readouts.1", "les.fixed", least=60
    )


def assert_one_clear_error(
    pickled: ModelFile, wrong: object, *parts: str, least: int = 100
) -> None:
    """Every attribute and every tensor, replaced by something else, one at a time.

    Of all modules, or those whose path begins with one of the parts, and the model itself; in at
    least so many places that is an error.
    """
    records = [record for record in pickled.root.walk() if record.path.startswith(parts or "")]
    states = [record.state for record in [pickled.root, *records]]
    groups = ("_parameters", "_buffers", "_modules")
    places = states + [state.get(group, {}) for state in states for group in groups]
    said = []
    for place in places:
        for name, value in list(place.items()):
            if not name.startswith("_"):
                place[name] = wrong
                try:
                    canonical_model(pickled)
                except ModelFileError as error:
                    said.append(str(error))
                place[name] = value
    assert len(said) > least
    assert all(line.startswith("model: ") and "\n" not in line for line in said)


# --- several heads ------------------------------------------------------------------------------

HEADS = {
    "heads": ["pbe", "wb97m"],
    "atomic_energies": [[-1.0, -2.0], [-1.0, -3.0]],
    "atomic_inter_scale": [0.9, 1.2],
    "atomic_inter_shift": [0.1, -0.2],
}


@pytest.fixture(scope="module")
def several_heads(tmp_path_factory) -> Path:
    from oracles.mace_models import synthetic_model

    return synthetic_model(tmp_path_factory.mktemp("heads"), **TINY, options=HEADS)


@needs_mace
@pytest.mark.parametrize("index", [0, 1])
def test_each_head_is_the_model(several_heads, index):
    from oracles.canonical_mace import short_range
    from oracles.mace_models import original_short_range

    name = HEADS["heads"][index]
    model = read_model(several_heads, head=name)
    check_schema(model)
    assert model.source["head"] == name
    probe = probe_structures(model.hyper["elements"], model.hyper["cutoff"])[0]
    energies, charges, _ = short_range(model, probe.positions, probe.numbers)
    hyper = TINY | {"options": HEADS}
    expected = original_short_range(hyper, probe.positions, probe.numbers, head=index)
    other = original_short_range(hyper, probe.positions, probe.numbers, head=1 - index)
    assert float(energies.detach().sum()) == pytest.approx(expected[0], abs=1e-9)
    np.testing.assert_allclose(charges.detach().numpy(), expected[1], rtol=0, atol=1e-10)
    assert np.abs(expected[1] - other[1]).max() > 1e-4


@needs_mace
def test_an_artifact_of_a_head_is_verified(several_heads, tmp_path):
    from openmm_les_export import export

    from openmm_les import artifact

    path = export(several_heads, tmp_path / "head.les.pt", head="wb97m", dtype="float64")
    metadata = artifact.inspect(path)
    assert metadata["verification"]["status"] == "verified"
    assert metadata["source"]["head"] == "wb97m"


@needs_mace
def test_a_head_must_be_chosen_among_those_of_the_model(several_heads, model_dir):
    with pytest.raises(InputError, match=r"several, pbe, wb97m; choose .* --head wb97m"):
        read_model(several_heads)
    with pytest.raises(InputError, match=r"head: expected one of pbe, wb97m, got 'scan'"):
        read_model(several_heads, head="scan")
    pickled = open_model(several_heads)
    pickled.root.state["heads"] = ["pbe", "wb97m", "scan"]
    with pytest.raises(UnsupportedModelError, match="one entry for each of 3 heads, got 2"):
        canonical_model(pickled, ModelOptions(head="pbe"))
    for wrong in ([], ["pbe", "pbe"], [1, 2], "pbe"):
        pickled.root.state["heads"] = wrong
        with pytest.raises(ModelFileError, match="heads: expected different names"):
            canonical_model(pickled, ModelOptions(head="pbe"))


# --- reading without frameworks -----------------------------------------------------------------

ROOT = Path(__file__).parents[2]
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
    return checkpoint("mace_old", model_dir)


def test_reading_needs_neither_mace_nor_e3nn_nor_les(model_dir):
    path = _some_model(model_dir)
    code = (
        "import json; from openmm_les_export import read_model; "
        f"m = read_model({str(path)!r}); print(json.dumps([m.hyper, m.les, m.source]))"
    )
    expected = read_model(path)
    found = json.loads(_run_without({"mace", "e3nn", "les", "matscipy", "ase"}, code))
    assert found == [expected.hyper, expected.les, expected.source]


def test_importing_the_export_wing_imports_no_torch():
    _run_without({"torch", "mace", "e3nn", "openmm"}, "import openmm_les_export")


def test_classes_marked_as_safe_elsewhere_do_not_replace_the_stand_ins(model_dir):
    path = _some_model(model_dir)
    name = "e3nn.o3._irreps.Irreps"
    with torch.serialization.safe_globals([(dict, name)]):
        read_model(path)
        assert (dict, name) in torch.serialization.get_safe_globals()


# --- canonical form -----------------------------------------------------------------------------


def check_schema(model) -> None:
    """Beside names and shapes, which `CanonicalModel.check` compares."""
    assert all(t.is_contiguous() for t in model.state.values())
    assert json.loads(json.dumps(model.hyper)) == model.hyper
    assert json.loads(json.dumps(model.source)) == model.source
    assert model.hyper["layers"][-1]["output_lmax"] == 0


@pytest.mark.parametrize("name", MACE_MODELS)
def test_real_models_have_the_canonical_form(name):
    model = read_model(shared_file(MODELS / f"{name}.model"))
    check_schema(model)
    new = name == L2_MODEL
    expected = (1.1, 1.9, 90.4756, True) if new else (1.0, 2.0, 90.0474, False)
    names = ("sigma", "dl", "prefactor", "remove_self_interaction")
    assert tuple(model.les[key] for key in names) == expected
    assert model.source["vintage"] == ("mace-torch" if new else "MACE-LES fork")
    assert model.source["dtype"] == "float32"
    assert model.source["file"] == f"{name}.model"


#: Shapes and blocks that the network has too are in `tests/networks/test_networks.py`.
CASES = {
    "old, one layer that keeps L1": {"vintage": "old", "interactions": 1, "max_L": 1},
    "L2, float64": {"max_L": 2, "max_ell": 2, "dtype": "float64", "elements": [8, 1, 6]},
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
    model = read_model(path)
    check_schema(model)
    assert model.source["vintage"] == ("MACE-LES fork" if "old" in case else "mace-torch")
    assert model.source["dtype"] == CASES[case].get("dtype", "float32")

    for probe in probe_structures(model.hyper["elements"], model.hyper["cutoff"])[:3]:
        energies, charges, _ = short_range(model, probe.positions, probe.numbers, probe.cell)
        expected = original_short_range(CASES[case], probe.positions, probe.numbers, probe.cell)
        # A float32 file holds e3nn's compiled Wigner symbols in float32; ours are exact.
        exact = case.startswith("L2, float64")
        energy = float(energies.detach().sum())
        assert energy == pytest.approx(expected[0], abs=1e-12 if exact else 1e-9)
        found = charges.detach().numpy()
        np.testing.assert_allclose(found, expected[1], rtol=0, atol=1e-13 if exact else 1e-10)


@pytest.mark.parametrize(("order", "highest"), [(1, 3), (2, 3), (3, 3), (2, 4), (4, 4)])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_monomials_equal_the_contraction_of_the_coupling_tensor(order, highest, degree):
    generator = torch.Generator().manual_seed(7)
    size, k = 9, 4
    shape = [2 * degree + 1] + [size] * order + [k]
    coupling = torch.randn(shape, generator=generator, dtype=torch.float64)
    a = torch.randn(size, generator=generator, dtype=torch.float64)
    basis = coupling_monomials(coupling, order, highest)
    one = torch.cat([torch.ones(1, dtype=torch.float64), a])
    factors = torch.combinations(torch.arange(size + 1), highest, with_replacement=True)
    found = torch.einsum("kmi,i->km", basis, one[factors].prod(1))
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
