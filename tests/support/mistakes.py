"""Frequent mistakes that the page of messages explains, for `test_documents`."""

import ase.io
import openmm
import torch
from openmm import app
from openmm_les_export import export
from openmmml import MLPotential
from support.contexts import create_context, create_system
from support.helpers import topology_from_atoms

from openmm_les.ase import LESCalculator


class Mistakes:
    """Each public method makes one mistake.

    Args:
        folder: with ``my.model`` and ``my.les.pt``.
    """

    def __init__(self, folder):
        self.folder, self.model, self.artifact = folder, folder / "my.model", folder / "my.les.pt"
        self.atoms = ase.io.read(folder / "examples" / "alanine_dipeptide.pdb")

    def _create_system(self, **options):
        return create_system(self.artifact, self.atoms, **options)

    def _mix(self, chosen, system=None, **options):
        """ML/MM of the atoms of alanine dipeptide with these names."""
        topology = app.PDBFile(str(self.folder / "examples" / "alanine_dipeptide.pdb")).topology
        field = app.ForceField("amber14-all.xml")
        system = system or field.createSystem(topology, constraints=app.HBonds)
        atoms = [atom.index for atom in topology.atoms() if not chosen or atom.name in chosen]
        potential = MLPotential("les", modelPath=self.artifact)
        return potential.createMixedSystem(topology, system, atoms, **options)

    def _evaluate(self, system, positions):
        create_context(system, positions, "Reference").getState(energy=True)

    def no_such_device(self):
        self._create_system(device="cuda:77")

    def torchforce_with_a_device(self):
        self._create_system(backend="torchforce", device="cpu")

    def model_in_place_of_the_artifact(self):
        MLPotential("les", modelPath=self.model)

    def unknown_element(self):
        self.atoms.symbols[3] = "Na"
        self._create_system()

    def virtual_sites(self):
        topology = topology_from_atoms(self.atoms)
        topology.addAtom("M", None, topology.addResidue("HOH", topology.addChain()))
        MLPotential("les", modelPath=self.artifact).createSystem(topology)

    def small_box(self):
        self.atoms.set_cell([1.0, 20.0, 20.0])
        self.atoms.pbc = True
        self._create_system()

    def slab(self):
        self.atoms.set_cell([20.0, 20.0, 20.0])
        self.atoms.pbc = (True, True, False)
        LESCalculator(self.artifact).get_potential_energy(self.atoms)

    def positions_that_are_not_finite(self):
        positions = self.atoms.positions.copy()
        positions[2] = float("nan")
        self._evaluate(self._create_system(), positions)

    def atoms_at_one_place(self):
        positions = self.atoms.positions.copy()
        positions[2] = positions[5]
        self._evaluate(self._create_system(), positions)

    def moved_artifact(self):
        xml = openmm.XmlSerializer.serialize(self._create_system())
        self.artifact.write_bytes(self.artifact.read_bytes() + b"other")
        for copy in (self.folder / "cache").rglob("*.les.pt"):
            copy.unlink()
        self._evaluate(openmm.XmlSerializer.deserialize(xml), self.atoms.positions)

    def checkpoint_in_place_of_a_model(self):
        torch.save({"model": {"weight": torch.zeros(3)}}, self.model)
        export(self.model, self.folder / "new.les.pt")

    def hydrogen_left_behind(self):
        self._mix({"CB", "HB1", "HB2"})

    def cut_through_a_double_bond(self):
        self._mix({"C"})

    def interpolation_of_constraints(self):
        self._mix(None, interpolate=True)

    def torchforce_with_link_atoms(self):
        self._mix({"CB", "HB1", "HB2", "HB3"}, backend="torchforce")

    def implicit_solvent(self):
        system = openmm.System()
        for _ in range(22):
            system.addParticle(1.0)
        system.addForce(openmm.GBSAOBCForce())
        self._mix(None, system)
