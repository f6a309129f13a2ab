"""Water of any size, made without a file: what a model is measured on by default."""

from __future__ import annotations

import numpy as np
import openmm
from openmm import app, unit

from openmm_les.arrays import FloatArray

#: A molecule [nm], and the volume that it takes in the liquid [nm^3].
_MOLECULE = 0.1 * np.array([[0.0, 0.0, 0.0], [0.9572, 0.0, 0.0], [-0.24, 0.9266, 0.0]])
_VOLUME = 0.0299
#: With fewer atoms the molecules are a cluster, cut out of a box of so many along an edge.
_SMALLEST_BOX, _EDGE_OF_CLUSTERS = 100, 4
_ITERATIONS = 50


def water(atoms: int) -> tuple[app.Topology, FloatArray]:
    """About so many atoms of water: a cluster of molecules, or from 100 atoms a cubic box.

    Returns:
        Topology, with box vectors for a box, and positions, shape (n, 3) [nm].
    """
    if atoms >= _SMALLEST_BOX:
        return water_box(round((atoms / 3) ** (1 / 3)))
    topology, positions = water_box(_EDGE_OF_CLUSTERS)
    middle = np.diag(topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer)) / 2
    molecules = positions.reshape(-1, 3, 3)
    nearest = np.argsort(np.linalg.norm(molecules[:, 0] - middle, axis=1), kind="stable")
    chosen = molecules[nearest[: max(1, round(atoms / 3))]].reshape(-1, 3)
    return _topology(len(chosen) // 3), chosen


def water_box(edge: int) -> tuple[app.Topology, FloatArray]:
    """`edge`**3 molecules: a lattice with random orientations, relaxed with TIP3P; as `water`."""
    random = np.random.default_rng(0)
    spacing = _VOLUME ** (1 / 3)
    places = spacing * np.array(list(np.ndindex(edge, edge, edge)))
    places = places + random.normal(0.0, 0.02, places.shape)
    orientations, _ = np.linalg.qr(random.normal(size=(len(places), 3, 3)))
    positions = (places[:, None] + _MOLECULE @ orientations).reshape(-1, 3)
    topology = _topology(edge**3)
    topology.setPeriodicBoxVectors(edge * spacing * np.eye(3) * unit.nanometer)
    system = app.ForceField("tip3p.xml").createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=min(0.9, 0.49 * edge * spacing) * unit.nanometer,
        rigidWater=False,
    )
    # One thread, so that the structure is always the same.
    platform = openmm.Platform.getPlatformByName("CPU")
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, platform, {"Threads": "1"})
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=_ITERATIONS)
    relaxed = context.getState(positions=True).getPositions(asNumpy=True)
    return topology, np.array(relaxed.value_in_unit(unit.nanometer))


def _topology(molecules: int) -> app.Topology:
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(molecules):
        residue = topology.addResidue("HOH", chain)
        oxygen, *hydrogens = (
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
            for name in ("O", "H1", "H2")
        )
        for hydrogen in hydrogens:
            topology.addBond(oxygen, hydrogen)
    return topology
