"""`openmm-les run` with a region of the model in a force field."""

import dataclasses
import json
import re
import shutil
import signal
import sys
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app
from support.mixed import NM, bare, context, energy, mixed, peptide, peptide_in_water, villin
from support.runs import (
    IN_WATER,
    PEPTIDE,
    SAME,
    TIP3P,
    Recorder,
    assert_same_run,
    command,
    config,
    flags,
    rows,
    run_with_copies,
    settings,
    write,
)

from openmm_les import InputError, artifact, catalog
from openmm_les import simulation as md
from openmm_les.plugin.guard import TemperatureGuard
from openmm_les.simulation.builder import (
    constrained_particles,
    create_simulation,
    draw_velocities,
    resolve_config,
    set_positions,
)
from openmm_les.simulation.checkpoint import Checkpoint
from openmm_les.simulation.hybrid import prepare_hybrid
from openmm_les.simulation.structures import selection
from openmm_les.simulation.structures.structure import check_time_step, read_structure, with_box
from openmm_les.simulation.summary import Summary

TIP4P = ("amber14-all.xml", "amber14/tip4pew.xml")


def solvated(water="tip3p"):
    """Alanine dipeptide in a box that is small, for speed."""
    return peptide_in_water(water, 1.6)


@pytest.fixture(scope="module")
def in_water(tmp_path_factory):
    return write(tmp_path_factory.mktemp("box") / "peptide.pdb", solvated())


@pytest.fixture(scope="module")
def fields(in_water):
    """Settings of a run of the peptide in water."""
    return IN_WATER | {"structure": in_water}


def built(settings):
    """The Simulation of a run, at the positions where it begins."""
    chosen = resolve_config(settings)
    complete, parts = prepare_hybrid(chosen, read_structure(chosen.structure))
    model = artifact.load(catalog.artifact_path("les-demo"))
    sim = create_simulation(chosen, complete, model, "NVT", complete.box, hybrid=parts)
    set_positions(sim, complete.positions)
    return sim


# Selection


@pytest.mark.parametrize(
    ("selectors", "names"),
    [
        (["resname ALA"], {"ALA"}),
        (["residue 2"], {"ALA"}),
        (["A:2"], {"ALA"}),
        (["resindex 1"], {"ALA"}),
        (["A:3", "resindex 0", "resname NME"], {"ACE", "NME"}),
    ],
)
def test_simple_selectors_need_no_mdtraj(monkeypatch, selectors, names):
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    topology = solvated().topology
    expected = tuple(atom.index for atom in topology.atoms() if atom.residue.name in names)
    assert selection.select(topology, selectors) == expected


def test_words_mean_what_they_mean_in_mdtraj():
    mdtraj = pytest.importorskip("mdtraj")
    topology = villin().topology
    other = mdtraj.Topology.from_openmm(topology)
    for ours, theirs in (
        ("resname PHE", "resname PHE"),
        ("residue 17", "residue 17"),
        ("resindex 5", "resid 5"),
        ("resindex 5 to 7 and sidechain", "resid 5 to 7 and sidechain"),
        ("residue 17 and not backbone", "residue 17 and not backbone"),
        ("resname PHE and name CB or index 3", "resname PHE and name CB or index 3"),
    ):
        expected = other.select(theirs)
        assert len(expected) > 0
        assert list(selection.select(topology, [ours])) == list(expected)


def test_residues_of_one_number():
    """`residue` takes them from all chains, with all insertion codes; CHAIN:NUMBER takes one."""
    topology = app.Topology()
    for chain in "AB":
        made = topology.addChain(chain)
        for code in ("", "B"):
            residue = topology.addResidue("LIG", made, "-7", code)
            topology.addAtom("C1", app.element.carbon, residue)
    assert selection.select(topology, ["B:-7"]) == (2,)
    assert selection.select(topology, ["A:-7B", "B:-7B"]) == (1, 3)
    with pytest.raises(InputError, match="got all of its 4 atoms"):
        selection.select(topology, ["residue -7"])


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (
            "resname LIG",
            r"expected atoms for 'resname LIG', got none; there are chain A: ACE 1, ALA",
        ),
        ("A:17", r"for 'A:17', got none; .* NME 3; chain \w+: HOH 4 to \d+$"),
        ("residue 1000", "for 'residue 1000', got none"),
        ("resid 2", "resid in 'resid 2' is the number in the file for some programs, an index for"),
        ("resname ALA and resi 2", "write residue 17 or A:17 for the number, resindex 16 for the"),
        (
            "name O",
            r"expected whole water molecules, got 1 of 3 atoms of HOH \S+; select residues, s",
        ),
        ("resname ALA and (", r"or a selection of mdtraj, got 'resname ALA and \(': "),
        (
            "LIG",
            "expected resname NAME, residue NUMBER, CHAIN:NUMBER, resindex INDEX or a selection",
        ),
        ("all", r"got all of its \d+ atoms; without ml_region \(and force_field\) the model descr"),
    ],
)
def test_selections_that_are_none(selector, message):
    needs_mdtraj = not selector.startswith(("resname LIG", "A:", "residue", "resid"))
    if needs_mdtraj:
        pytest.importorskip("mdtraj")
    with pytest.raises(InputError, match=f"ml_region: .*{message}"):
        selection.select(solvated().topology, [selector])


def test_other_selections_need_mdtraj(monkeypatch):
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    with pytest.raises(InputError, match=r"for selections of mdtraj install it: pip install"):
        selection.select(villin().topology, ["sidechain"])


def test_virtual_sites_are_not_selected():
    box = solvated("tip4pew")
    water = next(r for r in box.topology.residues() if r.name == "HOH")
    oxygen, *hydrogens, _ = [atom.index for atom in water.atoms()]
    taken = selection.select(box.topology, [f"resindex {water.index}"])
    assert taken == (oxygen, *hydrogens)
    told = selection.describe(box.topology, taken)
    assert told.of == sum(atom.element is not None for atom in box.topology.atoms())
    assert told.cut_bonds == []


def test_what_was_selected_is_told():
    side_chain = villin().side_chain_of(5)
    told = selection.describe(villin().topology, side_chain)
    residue = list(villin().topology.residues())[5]
    name = f"{residue.name} {residue.id}"  # the chain has no name
    assert told == selection.SelectedRegion(
        len(side_chain), 582, [name], [f"CB of {name} to CA of {name}"]
    )
    assert told.text() == (
        f"{len(side_chain)} of 582 atoms in {name}; bonds cut: CB of {name} to CA of {name}"
    )


# Settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ml_region: resname LIG", "force_field and system: expected one of them .* got neither"),
        ("{ml_region: A:1, force_field: a.xml, system: b.xml}", "expected one of them .* got both"),
        ("force_field: a.xml", "force_field: this goes with ml_region; without it the model desc"),
        ("embedding: electrostatic", "embedding: this goes with ml_region"),
        (
            "{ml_region: A:1, force_field: a.xml, charge_tolerance: 1}",
            "charge_tolerance: this is for embedding: elec",
        ),
        ("{ml_region: A:1, force_field: a.xml, polarization: mm}", "polarization: this is for emb"),
        (
            "{ml_region: A:1, system: a.xml, constraints: none}",
            "constraints: this goes with force_f",
        ),
        (
            "ml_region: 5",
            r"ml_region: expected a list of texts, or one text with commas, or null \(",
        ),
        ("ml_region: [1, 2]", r"or null \(selectors .*, got 1; .*, got 2$"),
        ("ml_region: []", r"ml_region: expected a list .* got \[\]"),
        ("ml_region: 'A:1,'", r"ml_region: expected a list .* got 'A:1,'"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    text = text.strip("{}").replace(", force", "\nforce").replace(", sys", "\nsys")
    for name in ("charge", "constr", "polar"):
        text = text.replace(f", {name}", f"\n{name}")
    file.write_text(f"structure: a.pdb\nmodel: les-demo\n{text}\n")
    with pytest.raises(InputError, match=message):
        md.load(file)


def test_lists_are_texts_with_commas_too(capsys, tmp_path, monkeypatch):
    """Files are found beside the configuration, other names are left to OpenMM."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.xml").write_text("<ForceField/>")
    text = "structure: a.pdb\nmodel: les-demo\nml_region: resname LIG, A:5\n"
    (tmp_path / "sub" / "a.yaml").write_text(text + "force_field: amber14-all.xml, own.xml\n")
    got = md.load("sub/a.yaml")
    assert got.ml_region == ("resname LIG", "A:5")
    assert got.force_field == ("amber14-all.xml", str(tmp_path / "sub" / "own.xml"))
    listed = "[resname LIG, A:5]\nforce_field: [amber14-all.xml, own.xml]\n"
    (tmp_path / "sub" / "b.yaml").write_text(text.replace("resname LIG, A:5\n", listed))
    assert md.load("sub/b.yaml") == got
    given = {"ml_region": "resname LIG,A:5", "force_field": "amber14-all.xml,sub/own.xml"}
    assert md.load("sub/b.yaml", given) == got

    status, out, _ = command(capsys, "sub/a.yaml", "--print-config")
    assert status == 0
    assert "\nforce_field:\n- amber14-all.xml\n- sub/own.xml\n" in out
    (tmp_path / "printed.yaml").write_text(out)
    assert md.load("printed.yaml") == got


# The System


def directly(given, atoms, options, model="tip3p"):
    """A System as a script makes it."""
    files = TIP4P if model == "tip4pew" else TIP3P
    method = app.PME if given.topology.getPeriodicBoxVectors() is not None else app.NoCutoff
    classical = app.ForceField(*files).createSystem(
        given.topology, nonbondedMethod=method, nonbondedCutoff=0.65 * NM, constraints=app.HBonds
    )
    return mixed(given, classical, atoms, **options)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, fields):
    """The Simulation of a run in mechanical embedding."""
    return built(config(tmp_path_factory.mktemp("begun"), **fields | {"precision": "double"}))


def assert_as_by_script(sim, options):
    """Energies of everything and of the model are those of a System made without a run."""
    positions = bare(sim.context.getState(positions=True).getPositions())
    reference = context(directly(solvated(), solvated().peptide, options), positions, "CPU")
    for groups in (-1, {1}):
        assert energy(sim.context, groups) == pytest.approx(energy(reference, groups), abs=2e-3)
    assert energy(sim.context, {1}) != 0.0
    for system in (sim.system, reference.getSystem()):
        assert system.getNumConstraints() == len(solvated().waters(1000))


def test_energies_are_those_of_a_script(begun):
    assert_as_by_script(begun, {})
    assert begun.context.getPlatform().getName() == "CPU"


def test_electrostatic_embedding(tmp_path, fields):
    """A charge other than zero is permission for it."""
    changes = {"embedding": "electrostatic", "charge": 1, "charge_tolerance": 2.0}
    sim = built(config(tmp_path, **fields | changes | {"precision": "double"}))
    options = {"embedding": "electrostatic", "charge": 1, "allowNetCharge": True}
    assert_as_by_script(sim, options | {"chargeTolerance": 2.0})


def test_temperature_knows_of_constraints(tmp_path, fields, begun):
    """Within 4 standard deviations; without regard to them it would be 200 K."""
    draw_velocities(config(tmp_path, **fields | {"seed": 3}), begun)
    state = begun.context.getState(velocities=True)
    kelvin = TemperatureGuard().temperature(begun.system, state)
    assert kelvin == pytest.approx(300, abs=60)


def test_time_steps_are_long_for_hydrogen_in_the_region(begun, caplog):
    """Not for hydrogen that constraints hold."""
    held = constrained_particles(begun)
    assert held == set(solvated().waters(1000))
    check_time_step(begun.topology, 2.0, held)
    assert "time_step: 2 fs is long where bonds to hydrogen are free" in caplog.text
    caplog.clear()
    check_time_step(begun.topology, 2.0, held | set(solvated().peptide))
    assert not caplog.text


def test_a_region_with_a_cut_bond_in_vacuum(tmp_path):
    pytest.importorskip("mdtraj")
    path = write(tmp_path / "alone.pdb", peptide())
    changes = {"structure": path, "force_field": TIP3P, "precision": "double"}
    settings = config(tmp_path, **changes, ml_region=["resname ALA and name CB HB1 HB2 HB3"])
    parts = prepare_hybrid(settings, read_structure(path))[1]
    assert parts.selected.text() == (
        "4 of 22 atoms in ALA A:2; bonds cut: CB of ALA A:2 to CA of ALA A:2"
    )
    assert list(parts.ends) == peptide().atoms("CA")
    sim = built(settings)
    positions = bare(sim.context.getState(positions=True).getPositions())
    reference = context(directly(peptide(), peptide().side_chain, {}), positions, "CPU")
    assert energy(sim.context) == pytest.approx(energy(reference), abs=2e-3)


def test_sites_of_tip4p_are_found_or_made(tmp_path):
    """A file may have them or not; constraints and sites are where they belong."""
    box = solvated("tip4pew")
    real = [a.index for a in box.topology.atoms() if a.element is not None]
    files = [write(tmp_path / "with.pdb", box), write(tmp_path / "without.pdb", box.only(real))]
    changes = IN_WATER | {"force_field": TIP4P, "precision": "double"}
    settings = [config(tmp_path, **changes, structure=file) for file in files]
    pairs = [prepare_hybrid(chosen, read_structure(chosen.structure)) for chosen in settings]
    assert len({parts.sha256 for _, parts in pairs}) == 1
    np.testing.assert_allclose(pairs[0][0].positions, pairs[1][0].positions, atol=2e-4)

    recorder = Recorder()
    steps = {"steps": 20, "equilibration_steps": 0, "minimise_iterations": 2}
    result = md.run(settings[1].model_copy(update=steps), callbacks=recorder)
    assert result.atoms == len(real)
    final = app.PDBFile(str(tmp_path / "run" / "final.pdb"))
    assert final.topology.getNumAtoms() == box.topology.getNumAtoms()
    reference = context(directly(box, box.peptide, {}, "tip4pew"), pairs[1][0].positions, "CPU")
    reference.applyConstraints(1e-5)
    reference.computeVirtualSites()
    told = re.search(r"iterations from (.*) to .* kJ/mol", "\n".join(recorder.messages))
    assert float(told[1]) == pytest.approx(energy(reference), abs=0.1)


def test_waters_of_other_models_lose_their_sites(tmp_path):
    path = write(tmp_path / "with.pdb", solvated("tip4pew"))
    complete, parts = prepare_hybrid(
        config(tmp_path, **IN_WATER, structure=path), read_structure(path)
    )
    assert all(atom.element is not None for atom in complete.topology.atoms())
    assert parts.system.getNumParticles() == complete.topology.getNumAtoms()
    names = [atom.residue.name for atom in complete.topology.atoms()]
    assert [names[index] for index in parts.atoms] == ["ACE"] * 6 + ["ALA"] * 10 + ["NME"] * 6


def test_the_box_is_left_out_where_the_force_field_has_none(tmp_path, fields):
    complete, parts = prepare_hybrid(
        config(tmp_path, **fields, nonbonded_method="CutoffNonPeriodic"),
        read_structure(fields["structure"]),
    )
    assert complete.box is None
    assert not parts.system.usesPeriodicBoundaryConditions()


def test_constraints_can_be_left_out(tmp_path, fields):
    of_water = len(solvated().waters(1000))  # as many as atoms
    numbers = {"none": 0, "HBonds": 12 + of_water, "AllBonds": 21 + of_water}
    for constraints, number in numbers.items():
        settings = config(tmp_path, **fields, constraints=constraints)
        parts = prepare_hybrid(settings, read_structure(fields["structure"]))[1]
        assert parts.system.getNumConstraints() == number


def test_a_system_from_a_file_is_the_same(tmp_path, fields):
    parts = prepare_hybrid(config(tmp_path, **fields), read_structure(fields["structure"]))[1]
    path = tmp_path / "system.xml"
    path.write_text(openmm.XmlSerializer.serialize(parts.system))
    given = {name: fields[name] for name in ("ml_region", "structure")} | {"system": path}
    again = prepare_hybrid(config(tmp_path, **given), read_structure(fields["structure"]))[1]
    assert (again.sha256, again.atoms) == (parts.sha256, parts.atoms)


# What is refused


def refused(folder, message, fields):
    with pytest.raises(InputError, match=message):
        md.run(config(folder, **fields))
    assert not (folder / "run" / "config.yaml").exists()


def test_force_fields_that_do_not_describe_the_structure(tmp_path, fields):
    def refuse(message, **changes):
        refused(tmp_path, message, fields | changes)

    refuse(
        r"force_field: cannot read none.xml: .*such as amber14-all.xml", force_field=("none.xml",)
    )
    broken = tmp_path / "broken.xml"
    broken.write_text("<ForceField>")
    refuse("force_field: cannot read .*broken.xml: ", force_field=(str(broken),))
    refuse(
        r"force_field: amber14/tip3p.xml cannot describe the structure: No template found for "
        r"residue 0 \(ACE\).*such as a ligand, needs a force field file .*\(system: FILE.xml\)",
        force_field=("amber14/tip3p.xml",),
    )
    refuse(r"nonbonded_cutoff: expected a cutoff of at most half .* got 1 nm", nonbonded_cutoff=1)
    refuse(
        "nonbonded_method: PME needs a periodic box",
        structure=PEPTIDE,
        nonbonded_method="PME",
        ml_region=("resname ALA",),
    )


def test_systems_that_do_not_fit(tmp_path, fields):
    path = tmp_path / "system.xml"
    given = {name: fields[name] for name in ("ml_region", "structure")} | {"system": path}
    whole = prepare_hybrid(config(tmp_path, **fields), read_structure(fields["structure"]))[
        1
    ].system
    refused(tmp_path, "system: cannot read .*system.xml: No such file", given)
    path.write_text("<System>")
    refused(tmp_path, "system: .*system.xml is not an XML file", given)
    path.write_text("<System/>")
    refused(tmp_path, "system: OpenMM cannot read .*system.xml", given)
    path.write_text(openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001)))
    refused(tmp_path, r"serialize\(system\) gives, got a VerletIntegrator", given)
    path.write_text(openmm.XmlSerializer.serialize(openmm.System()))
    refused(tmp_path, r"system: expected \d+ particles, one for each atom .*, got 0 in", given)
    path.write_text(openmm.XmlSerializer.serialize(whole))
    alone = given | {"structure": write(tmp_path / "alone.pdb", unboxed(solvated()))}
    refused(tmp_path, r"structure: expected a box .* since .*system.xml is periodic", alone)
    whole.addForce(openmm.MonteCarloBarostat(1.0, 300.0))
    path.write_text(openmm.XmlSerializer.serialize(whole))
    refused(tmp_path, "system: expected a force field alone, got a MonteCarloBarostat", given)


def unboxed(given):
    topology = with_box(given.topology, None)
    return dataclasses.replace(given, topology=topology)


# Runs


@pytest.fixture(scope="module")
def complete(tmp_path_factory, fields):
    """Directories of complete runs, with a copy at every checkpoint: ``get(ensemble)``."""

    @cache
    def get(ensemble):
        folder = tmp_path_factory.mktemp(ensemble)
        return run_with_copies(folder, config(folder, ensemble, **short(fields, ensemble)))

    return get


def short(fields, ensemble="NVT"):
    equilibration = 20 if ensemble == "NVT" else 0
    lengths = {"steps": 40, "equilibration_steps": equilibration, "minimise_iterations": 5}
    return fields | lengths


@pytest.mark.parametrize("ensemble", ["NVT", "NPT"])
def test_resumed_runs_are_the_same(complete, tmp_path, fields, ensemble):
    """Also where the files of the force field have moved."""
    expected = complete(ensemble)
    shutil.copytree(expected / "production-20", tmp_path / "run")
    moved = {"force_field": [str(Path(app.__file__).parent / "data" / name) for name in TIP3P]}
    md.run(config(tmp_path, ensemble, **short(fields, ensemble) | moved), resume=True)
    assert_same_run(tmp_path / "run", expected / "run")


def test_a_stopped_run_goes_back_to_its_last_report(complete, tmp_path, fields):
    """A checkpoint between reports would lead to neighbour lists of another age."""

    def stop(progress):
        if (progress.phase, progress.step) == ("production", 30):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        md.run(config(tmp_path, **short(fields)), callbacks=Recorder(stop))
    checkpoint = Checkpoint.read(tmp_path / "run" / "checkpoint.zip")
    assert (checkpoint.phase, checkpoint.step) == ("production", 20)
    md.run(config(tmp_path, **short(fields)), resume=True)
    for name in SAME:
        expected = (complete("NVT") / "run" / name).read_bytes()
        assert (tmp_path / "run" / name).read_bytes() == expected


def test_figures_and_files(complete):
    folder = complete("NVT") / "run"
    summary = Summary.from_json((folder / "summary.json").read_text())
    assert summary.ml_region.atoms == 22
    assert summary.ml_region.residues == ["ACE A:1", "ALA A:2", "NME A:3"]
    assert summary.atoms == solvated().topology.getNumAtoms()
    assert "ML region         22 of " in summary.table()
    assert summary.config["platform"] == "CPU"
    assert rows(folder / "log.csv") == 2
    assert json.loads((folder / "summary.json").read_text())["config"]["force_field"] == list(TIP3P)


def test_constraints_hold(complete):
    """Water is rigid, hydrogen atoms of the region are free."""
    final = app.PDBFile(str(complete("NVT") / "run" / "final.pdb"))
    positions = bare(final.positions) * 10

    def lengths(names):
        bonds = [b for b in final.topology.bonds() if b[0].residue.name in names]
        return [
            np.linalg.norm(positions[a.index] - positions[b.index])
            for a, b in bonds
            if "H" in (a.element.symbol, b.element.symbol)
        ]

    np.testing.assert_allclose(lengths(["HOH"]), 0.9572, atol=2e-3)
    assert np.std(lengths(["ALA"])) > 5e-3


def test_another_force_field_is_not_continued(complete, tmp_path, fields):
    shutil.copytree(complete("NVT") / "production-20", tmp_path / "run")

    def refuse(message, **changes):
        with pytest.raises(InputError, match=message):
            md.run(config(tmp_path, **short(fields) | changes), resume=True)

    other = ("amber14-all.xml", "amber14/spce.xml")
    refuse(
        r"force_field: the System from amber14-all.xml, .*spce.xml is not what", force_field=other
    )
    refuse("nonbonded_cutoff: this run was started with 0.65, got 0.7; only", nonbonded_cutoff=0.7)
    refuse("ml_region: this run was started with .*'resname ACE'", ml_region=("resname ALA",))


def test_a_run_from_the_command_line(capsys, tmp_path, in_water):
    given = settings(tmp_path, structure=in_water, steps=20, equilibration_steps=0)
    given |= {"minimise_iterations": 2, "nonbonded_cutoff": 0.65}
    given |= {"ml_region": "A:1,A:2,A:3", "force_field": ",".join(TIP3P)}
    status, out, err = command(capsys, *flags(given))
    assert status == 0, err
    assert err.startswith("ML region: 22 of ")
    assert "ML region         22 of " in out
    again = md.load(tmp_path / "run" / "config.yaml")
    assert again.ml_region == ("A:1", "A:2", "A:3")
    assert again.force_field == TIP3P
