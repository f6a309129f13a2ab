"""mace-torch compiled by torch.compile: the energy, with forces by autograd outside of it.

mace-torch 0.3.16 offers `compile_mode` in its ASE calculator, which compiles energy and forces
together. From torch 2.7 on the forces are then zero (mace issue 1008); what mends it is a setting
of torch that torch 2.9 does not have. Nor can MACELES be compiled as a whole, since the shapes of
its sum over k vectors depend on the box. Here the network is therefore compiled, forward and
backward, and the sum stays as it is.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

#: Room for more edges, so that later structures have the same shapes: a factor, and a multiple.
_HEADROOM, _MULTIPLE = 1.1, 64


class CompiledMACE(Calculator):
    """ASE calculator of a MACE or MACELES object of mace-torch in float32.

    The first evaluation compiles, and so does one with more edges than there is room for.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, model: torch.nn.Module, device: str) -> None:
        from mace.calculators import MACECalculator
        from mace.tools.compile import prepare
        from mace.tools.scripts_utils import extract_model

        super().__init__()
        # As mace-torch itself prepares a model to be compiled: without code of e3nn's own.
        network = prepare(extract_model)(model=model, map_location=device)
        network.requires_grad_(False)
        if hasattr(network, "les"):
            network.les.forward = torch.compiler.disable(network.les.forward)
        self._graphs = MACECalculator(models=[model], device=device, default_dtype="float32")
        self._cutoff = float(model.r_max)
        self._edges = 0

        def energy(graph: dict[str, torch.Tensor]) -> torch.Tensor:
            found: torch.Tensor = network(graph, compute_force=False)["energy"]
            return found

        self._energy = torch.compile(energy, dynamic=False)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        graph = self._graph(self.atoms)
        positions = graph["positions"].requires_grad_(True)
        energy = self._energy(graph)
        (gradient,) = torch.autograd.grad(energy.sum(), positions)
        self.results = {"energy": float(energy), "forces": -gradient.cpu().numpy()}

    def _graph(self, atoms: Atoms) -> dict[str, Any]:
        """The input of the model, with edges of no weight up to a number that seldom changes."""
        graph = self._graphs._atoms_to_batch(atoms).to_dict()
        for name, value in graph.items():
            if torch.is_tensor(value) and value.is_floating_point():
                graph[name] = value.float()
        edges = graph["edge_index"].shape[1]
        if edges > self._edges:
            self._edges = -(int(_HEADROOM * edges) // -_MULTIPLE) * _MULTIPLE
        more = self._edges - edges
        # From the first atom to its image beyond the cutoff, where everything is exactly zero.
        far = graph["shifts"].new_tensor([2.0 * self._cutoff, 0.0, 0.0]).expand(more, 3)
        own = graph["edge_index"].new_zeros(2, more)
        graph["edge_index"] = torch.cat([graph["edge_index"], own], 1)
        for name in ("shifts", "unit_shifts"):
            graph[name] = torch.cat([graph[name], far])
        return graph
