"""Three ligands in a protein and in water, for `openmm-les free-energy` with ligand_series.yaml.

    python 12_series_of_ligands.py [--padding 0.35] [--output ligand-series]

Benzene, toluene and p-xylene in the cavity of T4 lysozyme L99A. The complex of p-xylene is among
the data of openmmtools; the others take its place, ring upon ring. Protein and water are Amber14
and TIP3P. All terms of the ligands (GAFF, AM1-BCC charges) come from prmtop files, as antechamber
and tleap make them for any ligand, and become one XML file for the setting `force_field`. The
files need openmmtools, of which only data are read: `pip install --no-deps openmmtools==0.27.0`.

les-demo learned peptides and water, no aromatic rings, and the water around the protein is thin:
this shows how things are done, not how these ligands bind.
"""

import argparse
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openmm
from openmm import app, unit

HERE = Path(__file__).parent
RING = ("C1", "C2", "C3", "C5", "C6", "C7")  # of p-xylene, whose methyl groups are C4 and C8
#: Files of a ligand, and onto which atoms of p-xylene its first carbon atoms are placed.
LIGANDS = {
    "benzene": ("benzene-toluene-implicit/receptor", RING),
    "toluene": ("benzene-toluene-implicit/solvent", (*RING, "C8")),
    "p-xylene": ("T4-lysozyme-L99A-implicit/ligand", [f"C{i}" for i in range(1, 9)]),
}


def add_ligand(root: ElementTree.Element, name: str, prmtop: app.AmberPrmtopFile) -> None:
    """Add a ligand to a file for ForceField; each of its atoms has a type of its own."""

    def add(section: str, tag: str, atoms: tuple[int, ...] = (), **values: object) -> None:
        numbered = {f"type{n}": types[i] for n, i in enumerate(atoms, 1)}
        plain = {key: str(getattr(value, "_value", value)) for key, value in values.items()}
        ElementTree.SubElement(root.find(section), tag, numbered | plain)

    atoms, system = list(prmtop.topology.atoms()), prmtop.createSystem()
    types = [f"{name}-{atom.name}" for atom in atoms]
    forces = {type(force): force for force in system.getForces()}
    residue = ElementTree.SubElement(root.find("Residues"), "Residue", name=name)
    for atom, kind in zip(atoms, types, strict=True):
        mass, symbol = system.getParticleMass(atom.index), atom.element.symbol
        add("AtomTypes", "Type", name=kind, **{"class": kind}, element=symbol, mass=mass)
        charge, sigma, epsilon = forces[openmm.NonbondedForce].getParticleParameters(atom.index)
        add("NonbondedForce", "Atom", type=kind, sigma=sigma, epsilon=epsilon)
        ElementTree.SubElement(
            residue, "Atom", name=atom.name, type=kind, charge=str(charge._value)
        )
    bonded = set()
    for first, second in prmtop.topology.bonds():
        bonded |= {(first.index, second.index), (second.index, first.index)}
        ElementTree.SubElement(residue, "Bond", atomName1=first.name, atomName2=second.name)
    bonds, angles = forces[openmm.HarmonicBondForce], forces[openmm.HarmonicAngleForce]
    for *pair, length, k in map(bonds.getBondParameters, range(bonds.getNumBonds())):
        add("HarmonicBondForce", "Bond", pair, length=length, k=k)
    for *triple, angle, k in map(angles.getAngleParameters, range(angles.getNumAngles())):
        add("HarmonicAngleForce", "Angle", triple, angle=angle, k=k)
    torsions, terms = forces[openmm.PeriodicTorsionForce], {}
    for *four, n, phase, k in map(torsions.getTorsionParameters, range(torsions.getNumTorsions())):
        terms.setdefault(tuple(four), []).append((n, phase, k))
    for four, series in terms.items():
        is_proper = bonded.issuperset(pairwise(four))
        order = four
        if not is_proper:  # its centre is third or, read backwards, second; in XML it is first
            i, j, centre, k = four if (four[0], four[2]) in bonded else four[::-1]
            order = centre, i, j, k
        values = {
            f"{key}{number}": value
            for number, term in enumerate(series, 1)
            for key, value in zip(("periodicity", "phase", "k"), term, strict=True)
        }
        add("PeriodicTorsionForce", "Proper" if is_proper else "Improper", order, **values)


def force_field_xml(ligands: dict[str, app.AmberPrmtopFile]) -> str:
    """All terms of the ligands as a file for ForceField."""
    root = ElementTree.fromstring("""<ForceField>
  <AtomTypes/><Residues/><HarmonicBondForce/><HarmonicAngleForce/>
  <PeriodicTorsionForce ordering="amber"/>
  <NonbondedForce coulomb14scale="0.8333333333333334" lj14scale="0.5">
    <UseAttributeFromResidue name="charge"/>
  </NonbondedForce>
</ForceField>""")
    for name, prmtop in ligands.items():
        add_ligand(root, name, prmtop)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


def placed(positions: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Positions, moved and turned so that the first of them lie on `onto` (W. Kabsch, 1976)."""
    first = positions[: len(onto)]
    u, _, v = np.linalg.svd((first - first.mean(axis=0)).T @ (onto - onto.mean(axis=0)))
    turn = u @ np.diag([1.0, 1.0, np.linalg.det(u @ v)]) @ v
    return (positions - first.mean(axis=0)) @ turn + onto.mean(axis=0)


def along_axes(modeller: app.Modeller) -> np.ndarray:
    """Turn a molecule so that its box can be small; returns its size along each axis [nm]."""
    positions = np.array(modeller.positions.value_in_unit(unit.nanometer))
    _, _, axes = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=False)
    axes *= np.linalg.det(axes)  # no mirror image
    modeller.positions = positions @ axes.T * unit.nanometer
    return np.ptp(positions @ axes.T, axis=0)


def solvate(
    modeller: app.Modeller, field: app.ForceField, chosen: argparse.Namespace, file: Path
) -> None:
    """Add water and ions, bring them to 300 K with the force field, and write a PDB file."""
    size = np.maximum(along_axes(modeller) + 2 * chosen.padding, 2.2 * chosen.cutoff)
    modeller.addSolvent(field, boxSize=openmm.Vec3(*size) * unit.nanometer)
    system = field.createSystem(
        modeller.topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=chosen.cutoff * unit.nanometer,
        constraints=app.HBonds,
    )
    integrator = openmm.LangevinMiddleIntegrator(300, 10, 0.002)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(modeller.topology, system, integrator)
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=chosen.iterations)
    simulation.context.setVelocitiesToTemperature(300, 1)
    simulation.step(chosen.steps)
    state = simulation.context.getState(positions=True, enforcePeriodicBox=True)
    with file.open("w") as stream:
        app.PDBFile.writeFile(modeller.topology, state.getPositions(), stream, keepIds=True)
    print(f"wrote {file}: {modeller.topology.getNumAtoms()} atoms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--padding", type=float, default=0.35, help="water around a solute [nm]")
    parser.add_argument("--cutoff", type=float, default=0.7, help="of the force field [nm]")
    parser.add_argument("--iterations", type=int, default=200, help="of the minimisation")
    parser.add_argument("--steps", type=int, default=500, help="of 2 fs with the force field")
    parser.add_argument("--ligands", nargs="+", choices=LIGANDS, default=[*LIGANDS])
    parser.add_argument("--output", type=Path, default=HERE / "ligand-series")
    arguments = parser.parse_args()
    openmmtools = find_spec("openmmtools")  # not imported: only its files are read
    if openmmtools is None:
        sys.exit("This needs the data of openmmtools: pip install --no-deps openmmtools==0.27.0")
    data = Path(openmmtools.origin).parent / "data"
    arguments.output.mkdir(parents=True, exist_ok=True)

    # 1. One force field file of all ligands.
    prmtops = {name: app.AmberPrmtopFile(f"{data / LIGANDS[name][0]}.prmtop") for name in LIGANDS}
    xml = arguments.output / "ligands.xml"
    xml.write_text(force_field_xml(prmtops))
    field = app.ForceField("amber14-all.xml", "amber14/tip3p.xml", str(xml))
    print(f"wrote {xml}: {', '.join(prmtops)}")

    # 2. The protein with p-xylene.
    pdb = app.PDBFile(str(data / "T4-lysozyme-L99A-implicit" / "complex.pdb"))
    everything = np.array(pdb.positions.value_in_unit(unit.nanometer))
    xylene = {a.name: a.index for a in pdb.topology.atoms() if a.residue.name == "TMP"}

    # 3. Each ligand in its place in the protein, and alone, both in water.
    for name in arguments.ligands:
        files, atoms = LIGANDS[name]
        found = app.PDBFile(f"{data / files}.pdb")
        positions = np.array(found.positions.value_in_unit(unit.nanometer))
        positions = placed(positions, everything[[xylene[atom] for atom in atoms]])
        ligand = app.Modeller(prmtops[name].topology, positions * unit.nanometer)
        for residue in ligand.topology.residues():
            residue.name = "LIG"
        bound = app.Modeller(pdb.topology, pdb.positions)
        bound.delete([r for r in pdb.topology.residues() if r.name == "TMP"])
        bound.add(ligand.topology, ligand.positions)
        for leg, modeller in (("complex", bound), ("solvent", ligand)):
            solvate(modeller, field, arguments, arguments.output / f"{name}-{leg}.pdb")
    print(f"next: openmm-les free-energy run {HERE / 'ligand_series.yaml'} -o ligand-series")


if __name__ == "__main__":
    main()
