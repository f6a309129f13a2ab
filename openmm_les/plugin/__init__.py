"""Interface to OpenMM and openmm-ml: potentials, forces, reporters."""
