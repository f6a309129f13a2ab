"""Networks as plain Python, for the tests: compilation is most of the time of a scripted one."""

import numpy as np
import torch

from openmm_les.evaluation.portable import PortableModel
from openmm_les.networks import build_network
from openmm_les.networks.form import Form
from openmm_les.networks.moments import layout_of


def eager(model, dtype=torch.float64, **options) -> PortableModel:
    """A model as it was read."""
    elements = model.hyper["elements"]
    form = Form(dtype, **{"exact_radial": True, "fold": False} | options)
    network = build_network(model, range(len(elements)), form)
    references, layout = model.state["reference_energies"], layout_of(model.hyper)
    return PortableModel(network, elements, references, model.les, layout)


def of_module(module, positions, numbers, cell=None) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and charges."""
    box = np.zeros((3, 3)) if cell is None else np.asarray(cell)
    tensors = [torch.tensor(np.asarray(array)) for array in (positions, numbers, box)]
    energy, forces, charges = module(*tensors, cell is not None)
    return float(energy), forces.numpy(), charges.numpy()


def of_probe(module, probe) -> tuple[float, np.ndarray, np.ndarray]:
    """The same of a structure."""
    return of_module(module, probe.positions, probe.numbers, probe.cell)
