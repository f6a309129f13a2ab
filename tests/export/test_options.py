"""Options in files of every family: off or idle ones change nothing, others are refused by name.

The tables of the readers say which options there are; what must happen is stated here.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from openmm_les_export.checkpoints.accepted import ANY, NUMBERED, Options
from openmm_les_export.checkpoints.records import Record, stand_in
from openmm_les_export.checkpoints.unpickle import ModelFile, open_model
from openmm_les_export.families.cace.accepted import ACCEPTED as CACE
from openmm_les_export.families.chgnet import accepted as chgnet
from openmm_les_export.families.dispatch import canonical_model
from openmm_les_export.families.mace.accepted import ACCEPTED as MACE
from openmm_les_export.families.nequip import accepted as nequip
from openmm_les_export.options import ModelOptions
from support.checkpoints import checkpoint, export_options

from openmm_les.errors import ModelFileError, UnsupportedModelError

FAMILIES = ["mace", "cace", "nequip", "allegro", "chgnet"]
OFF = [None, False, [], {}, (), "", set(), OrderedDict(), torch.zeros(0)]
ON = [True, 0, 0.5, "on", [1], torch.ones(1)]


@pytest.fixture(params=FAMILIES)
def opened(request, tmp_path) -> tuple[str, ModelFile]:
    return request.param, open_model(checkpoint(request.param, tmp_path))


def read(family: str, file: ModelFile):
    return canonical_model(file, ModelOptions(**export_options(family)))


def places(family: str, file: ModelFile) -> Iterator[tuple[dict[str, Any], Options]]:
    """Everything in a file that holds options, one of each kind, with the table of it."""
    if family in ("mace", "cace"):
        table = {"mace": MACE, "cace": CACE}[family]
        kinds = {record.qualified_name: record for record in file.root.walk()}
        for name, record in kinds.items():
            if name in table.blocks:
                yield record.state, table.blocks[name].options
        return
    if family == "chgnet":
        arguments = file[chgnet.ARGUMENTS]
        yield arguments, chgnet.POTENTIAL
        yield arguments["model"]["init_args"], chgnet.NETWORK
        return
    model = file["hyper_parameters"]["model"]
    yield model, nequip.ALLEGRO if family == "allegro" else nequip.NEQUIP
    yield model["LES"], nequip.LES
    yield model["LES"]["les_args"], nequip.LES_ARGUMENTS
    if family == "allegro":
        yield model[nequip.EMBED], nequip.RADIAL_OPTIONS


class changed:
    """An entry of a mapping with another value for a while."""

    def __init__(self, mapping: dict[str, Any], name: str, value: Any) -> None:
        self.mapping, self.name, self.value = mapping, name, value

    def __enter__(self) -> None:
        self.before = dict(self.mapping)
        self.mapping[self.name] = self.value

    def __exit__(self, *_: object) -> None:
        self.mapping.clear()
        self.mapping.update(self.before)


def assert_refused(family: str, file: ModelFile, name: str) -> None:
    with pytest.raises(UnsupportedModelError, match=name) as caught:
        read(family, file)
    assert "\n" not in str(caught.value)


def assert_same(found, expected) -> None:
    assert (found.hyper, found.les) == (expected.hyper, expected.les)
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in found.state.items())


def test_known_options_may_be_off_and_are_refused_with_other_values(opened):
    family, file = opened
    expected, count = read(family, file), 0
    for values, table in places(family, file):
        for name, accepted in table.items():
            if accepted is ANY or name in ("_target_", "base_model"):  # which decide the family
                continue
            may_be_off = any(value is None or value is False for value in accepted)
            if may_be_off and (values.get(name) is None or values[name] is False):
                values[name] = OFF[count % len(OFF)]
            with changed(values, name, "on"):
                assert_refused(family, file, name)
            count += 1
    assert_same(read(family, file), expected)
    assert count > 5


def test_unknown_options_may_be_off_only(opened, caplog):
    family, file = opened
    caplog.set_level("INFO")
    expected = read(family, file)
    for values, _ in places(family, file):
        for value in ON:
            with changed(values, "brand_new", value):
                assert_refused(family, file, "brand_new")
        values |= {f"brand_new{i}": value for i, value in enumerate(OFF)}
    assert_same(read(family, file), expected)
    assert all(f"brand_new{i}: left out:" in caplog.text for i in range(len(OFF)))


# --- LES beyond charges -------------------------------------------------------------------------

MULTIPOLES = {
    "use_dipole": "latent dipoles",
    "use_quad": "latent quadrupoles",
    "use_quadrupole": "latent quadrupoles",
    "use_induced_charge": "induced charges",
    "use_induced_dipole": "induced dipoles",
}
#: Of all files, and of those that know the elements.
TABLES = {
    "use_fixed_atomic_charges": "fixed atomic charges",
    "use_atomic_alpha": "atomic polarizabilities",
}
#: Of what calls the les package.
CALLER = {
    "use_dipoles": "latent dipoles",
    "use_quads": "latent quadrupoles",
    "use_induced_charges": "induced charges",
    "use_induced_dipoles": "induced dipoles",
}
#: Without effect while those are off.
IDLE = {
    "kappa_alpha_positive": True,
    "kappa_scale": 0.3,
    "alpha_scale": 0.3,
    "alpha_irreps": "0e+2e",
    "use_anisotropic_polarizability": True,
    "use_epsilon_r_scaling": True,
    "fixed_atomic_charges_scaling_factor": 0.7,
}
IDLE_OF_MACE = {
    "les_kappa_scale": 0.3,
    "les_alpha_scale": 0.3,
    "alpha_irreps": "0e+2e",
    "use_anisotropic_polarizability": True,
    "alpha_1o_nonlinear_readout": True,
    "alpha_1o_linear_w_pos": False,
    "make_alpha_positive": True,
    "make_kappa_positive": True,
    "compute_bec": True,
    "bec_output_index": 1,
}


def les_options(family: str, file: ModelFile) -> dict[str, Any]:
    if family in ("nequip", "allegro"):
        return file["hyper_parameters"]["model"]["LES"]["les_args"]
    return next(record for record in file.root.walk() if record.kind == "Les").state


def test_multipoles_of_cace_are_refused_and_their_options_idle_without(tmp_path):
    file = open_model(checkpoint("cace", tmp_path))
    expected, options = read("cace", file), les_options("cace", file)
    named = {**MULTIPOLES, **TABLES}
    for name, what in named.items():
        with changed(options, name, True), pytest.raises(UnsupportedModelError) as caught:
            read("cace", file)
        assert f"LES with {what}" in str(caught.value)
        assert name in str(caught.value)
        assert "this version of openmm-les has" in str(caught.value)
    options |= dict.fromkeys(named, False) | IDLE
    assert_same(read("cace", file), expected)


#: Switches that NequIP-LES reads, and a part of the name of the readout that each one needs.
NEEDED = {
    "use_dipole": "latent_dipole",
    "use_quadrupole": "quad_1o",
    "use_induced_charge": "latent_kappa",
    "use_induced_dipole": "latent_alpha",
}


@pytest.mark.parametrize("family", ["nequip", "allegro"])
def test_switches_of_moments_without_their_readouts(family, tmp_path):
    """Those of other programs are refused too, and what switches concern is idle without."""
    file = open_model(checkpoint(family, tmp_path))
    expected, options = read(family, file), les_options(family, file)
    for name, part in NEEDED.items():
        with changed(options, name, True):
            assert_refused(family, file, part)
        with changed(options, name, 0.5):
            assert_refused(family, file, f"les_args.{name}: expected")
    for name in ("use_quad", *CALLER):
        with changed(options, name, True):
            assert_refused(family, file, f"les_args.{name}: expected")
    options |= dict.fromkeys(NEEDED, False) | IDLE
    options |= dict.fromkeys(TABLES, True)  # their les package is told no elements
    assert_same(read(family, file), expected)


def empty(kind: str) -> Record:
    return stand_in(kind)()


def test_parts_of_multipoles_in_mace_files(tmp_path):
    """Switches, lists of readouts, tables by element, buffers: off, empty or idle; else refused."""
    file = open_model(checkpoint("mace", tmp_path))
    expected, model, les = read("mace", file), file.root, file.root.module("les")
    lists = ["les_u_readouts", "les_kappa_readouts", "les_quad_2e_readouts", "les_alpha_readouts"]
    lists += ["les_alpha_2e_readouts", "les_quad_1o_readouts", "les_octupole_readouts"]
    modules = model.state["_modules"]
    modules |= {name: empty("torch.nn.modules.container.ModuleList") for name in lists}
    modules["brand_new"] = empty("torch.nn.modules.container.ModuleDict")
    les.state["_modules"]["fixed_charges"] = empty("les.module.fixedcharges.FixedCharges")
    les.state["_modules"]["atomic_alpha"] = empty("les.module.atomicalpha.AtomicAlpha")
    les.module("fixed_charges").state["charge_dict"] = {1: 1, 8: -2}
    les.module("atomic_alpha").state["alpha_dict"] = {1: 4.5, 8: 5.3}
    buffers = {"change_of_basis_quads": torch.ones(5, 3, 3), "brand_new": torch.ones(0)}
    model.state["_buffers"] |= buffers
    model.state |= IDLE_OF_MACE | dict.fromkeys(CALLER, False)
    les.state |= dict.fromkeys(MULTIPOLES, False) | IDLE
    les.state |= {"is_periodic": True, "N_max": 3}  # of a sum that does not know them
    assert_same(read("mace", file), expected)
    for name, part in {"use_dipoles": "les_u_", "use_induced_charges": "les_kappa_"}.items():
        with changed(model.state, name, True):
            assert_refused("mace", file, f"{part}readouts: expected one readout for each")
    with changed(model.state, "use_quads", True), changed(model.state, "use_induced_dipoles", True):
        # Tensors have none if the features have no such degree.
        with changed(model.state, "use_anisotropic_polarizability", True):
            assert_same(read("mace", file), expected)
        with changed(model.state, "use_anisotropic_polarizability", False):
            assert_refused("mace", file, "les_alpha_readouts: expected one readout for each")
    for name in MULTIPOLES:
        with changed(les.state, name, True):
            assert_refused("mace", file, f"les.{name}: expected")
    readout = model.module("readouts.0")
    for number, name in enumerate(lists):
        with changed(modules[name].state, "_modules", {"0": readout}):
            if number in (0, 1, 3, 4):  # without its switch
                assert_same(read("mace", file), expected)
            else:
                assert_refused("mace", file, name)
    with changed(model.state["_buffers"], "brand_new", torch.ones(2)):
        assert_refused("mace", file, "brand_new")
    assert NUMBERED not in MACE.blocks[model.qualified_name].tensors


def test_tables_of_mace_files(tmp_path):
    """Fixed charges are added to those of the network; atomic alpha needs induced dipoles."""
    file = open_model(checkpoint("mace", tmp_path))
    expected, les = read("mace", file), file.root.module("les")
    les.state["_modules"]["fixed_charges"] = empty("les.module.fixedcharges.FixedCharges")
    table = les.module("fixed_charges")
    table.state |= {"charge_dict": {1: 1, 6: 4, 7: -3, 8: -2}, "normalization_factor": 0.5}
    les.state |= {"use_fixed_atomic_charges": True, "fixed_atomic_charges_scaling_factor": 0.5}
    found = read("mace", file).state
    assert found.pop("fixed_charges").tolist() == [0.5, 2.0, -1.5, -1.0]
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in found.items())
    with changed(les.state, "fixed_atomic_charges_scaling_factor", 0.4):
        assert_refused("mace", file, "normalization_factor")
    for values in ({1: 1}, {1: 1, 6: 4, 7: -3, 8: float("nan")}, [0.5] * 9):
        with (
            changed(table.state, "charge_dict", values),
            pytest.raises(ModelFileError, match="charge_dict"),
        ):
            read("mace", file)
    with changed(les.state, "use_atomic_alpha", True):
        assert_refused("mace", file, "use_atomic_alpha")


def test_readouts_of_moments_that_are_not_known(tmp_path):
    """Every list, switch and part of a readout of a MACE file with all moments counts."""
    file = open_model(checkpoint("mace_moments", tmp_path))
    model, expected = file.root, read("mace_moments", file)
    dyads = model.module("les_quad_1o_readouts.0"), model.module("les_alpha_1o_readouts.1")
    for name in ("les_u_readouts", "les_kappa_readouts", "les_quad_1o_readouts"):
        state = model.module(name).state
        with changed(state, "_modules", {"0": state["_modules"]["0"]}):
            assert_refused("mace_moments", file, f"{name}: expected")
    for record in dyads:
        for name, value in (("scalar_slices", [(0, 1)]), ("ir_mul", True), ("brand_new", 1)):
            with changed(record.state, name, value):
                assert_refused("mace_moments", file, rf"{record.path}\.{name}")
    with changed(dyads[0].state, "vector_1e_slices", [(2, 8)]):
        assert_refused("mace_moments", file, "vector_1e_slices")
    for name in ("change_of_basis", "change_of_basis_quads"):
        buffers = model.state["_buffers"]
        with (
            changed(buffers, name, torch.ones(4, 3, 3)),
            pytest.raises(ModelFileError, match=name),
        ):
            read("mace_moments", file)
    switch = "use_anisotropic_polarizability"
    with changed(model.state, switch, False), pytest.raises(ModelFileError, match=switch):
        read("mace_moments", file)
    # Files of the fork state less.
    for record in dyads:
        for name in ("scalar_slices", "vector_1o_slices", "ir_mul", "n_scalar", "n_1o"):
            del record.state[name]
        record.state["cdim"] = 2
    assert_same(read("mace_moments", file), expected)


@pytest.mark.parametrize(("value", "factor"), [(None, 1.0), (1.0, 1.0), (0.1, 0.1), (2, 2.0)])
def test_the_scale_of_charges_is_1_where_a_mace_file_has_none(tmp_path, value, factor):
    file = open_model(checkpoint("mace", tmp_path))
    expected = read("mace", file).state
    file.root.state["les_output_scale"] = value
    found = read("mace", file).state
    last = "layers.1.charge.1", "layers.0.charge.0"
    for name, tensor in found.items():
        scale = factor if name in last else 1.0
        torch.testing.assert_close(tensor, scale * expected[name], rtol=1e-15, atol=0)


def test_the_number_of_neighbours_may_be_a_buffer(tmp_path):
    file = open_model(checkpoint("mace_old", tmp_path))
    expected = read("mace_old", file)
    for interaction in file.root.items("interactions"):
        number = interaction.state.pop("avg_num_neighbors")
        interaction.state["_buffers"]["avg_num_neighbors"] = torch.tensor(
            number, dtype=torch.float64
        )
    assert_same(read("mace_old", file), expected)


# --- a truncated sum ----------------------------------------------------------------------------

#: Options of the les package, and what an artifact says.
TRUNCATED = [
    ({"is_periodic": None, "N_max": 10}, {}),
    ({"is_periodic": True, "N_max": 4}, {"is_periodic": True, "n_max": 4}),
    ({"is_periodic": True}, {"is_periodic": True, "n_max": 10}),
    ({"is_periodic": False, "N_max": 4}, {"is_periodic": False}),
]


@pytest.mark.parametrize(("options", "stated"), TRUNCATED)
@pytest.mark.parametrize("family", ["mace", "nequip", "allegro"])
def test_bounds_of_the_reciprocal_sum(tmp_path, caplog, family, options, stated):
    file = open_model(checkpoint(family, tmp_path))
    expected = read(family, file).les
    if family == "mace":
        les = file.root.module("les")
        state = les.module("ewald").state | options
        n_max = options.get("N_max", 10)
        vectors = torch.cartesian_prod(*[torch.arange(-n_max, n_max + 1)] * 3)
        state["_buffers"] = {**state["_buffers"], "nvec_all": vectors, "factors": vectors[:, 0]}
        les.state["_modules"]["ewald"] = empty("les.module.ewald_vectorized.Ewald_vectorized")
        les.module("ewald").state = state
    else:
        les_options(family, file).update(options)
    found = read(family, file)
    assert found.les == {**expected, **stated}
    assert set(found.provenance) == {*found.les, "reference_energies"}
    unsure = "taken at their word" in found.provenance.get("n_max", "")
    assert unsure is ("n_max" in stated and family != "mace")
    assert not caplog.text  # it is for an export to warn


@pytest.mark.parametrize(
    ("vectors", "got"),
    [
        (torch.zeros(9261, 3), r"shape \(9261, 3\)"),
        (torch.zeros(343, 3), "others"),
        (torch.cartesian_prod(*[torch.arange(7.0)] * 3), "others"),
        (torch.cartesian_prod(*[torch.linspace(-1.0, 1.0, 7)] * 3), "others"),
    ],
)
def test_vectors_of_another_bound_are_refused(tmp_path, vectors, got):
    file = open_model(checkpoint("mace", tmp_path))
    les = file.root.module("les")
    state = les.module("ewald").state | {"is_periodic": True, "N_max": 3}
    state["_buffers"] = {"nvec_all": vectors}
    les.state["_modules"]["ewald"] = empty("les.module.ewald_vectorized.Ewald_vectorized")
    les.module("ewald").state = state
    assert_refused("mace", file, f"nvec_all: expected the 343 vectors up to N_max 3, got {got}")


@pytest.mark.parametrize("options", [{"is_periodic": 1}, {"is_periodic": True, "N_max": 0}])
def test_wrong_bounds_are_refused(tmp_path, options):
    file = open_model(checkpoint("nequip", tmp_path))
    les_options("nequip", file).update(options)
    assert_refused("nequip", file, f"les_args.{[*options][-1]}: expected")
