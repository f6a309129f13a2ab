"""The door to OpenMM and openmm-ml: potentials, forces, reporters."""
