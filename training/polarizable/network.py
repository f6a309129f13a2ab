"""MACE with latent charges and polarizabilities, in the layout of mace's own files.

Layers and readouts are mace-torch's (MIT), the weights to start from are the demonstration model's;
the energy is written from its formula: open structures, point fields of the Gaussian charges, one
response to the field of the permanent charges. `save` writes a ``.model`` file that
``openmm-les export`` reads.
"""

import contextlib
import io
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "les_demo"))
import train as demo  # the classes that stand for those of the les package, under its names

demo.register_les()
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import mace.modules.blocks as blocks
    from mace.modules.extensions import MACELES

ELEMENTS = [1, 6, 7, 8]
#: c = e^2 / (4 pi eps0) of the LES convention [eV A].
COULOMB = demo.PREFACTOR / (2 * math.pi)
ALPHA_SCALE = 0.3


class PolarizableMACE(MACELES):
    """Energies, charges q [e] and polarizabilities alpha [e A^2/V] of open structures."""

    def add_polarizabilities(self) -> None:
        """New readouts beside those of the charges, of the same kinds."""
        self.les_alpha_readouts = torch.nn.ModuleList(
            [
                blocks.LinearReadoutBlock(self.readouts[0].linear.irreps_in),
                blocks.NonLinearReadoutBlock(
                    self.readouts[1].linear_1.irreps_in,
                    self.readouts[1].hidden_irreps,
                    torch.nn.functional.silu,
                ),
            ]
        )
        for name in ("u", "quad_2e", "quad_1o", "alpha_1o", "alpha_2e", "kappa"):
            setattr(self, f"les_{name}_readouts", torch.nn.ModuleList())
        self.use_dipoles = self.use_quads = self.use_induced_charges = False
        self.use_induced_dipoles, self.use_anisotropic_polarizability = True, False
        self.alpha_irreps = "0e"
        self.alpha_1o_nonlinear_readout = self.alpha_1o_linear_w_pos = False
        self.make_alpha_positive, self.make_kappa_positive = True, False
        self.les_output_scale, self.les_kappa_scale = 1.0, 0.01
        self.les_alpha_scale = ALPHA_SCALE

    def latents(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Energies of atoms without the latent part, charges, polarizabilities, shape [n] each."""
        sender, receiver = batch["edge_index"]
        vectors = batch["positions"][receiver] - batch["positions"][sender]
        lengths = vectors.norm(dim=1, keepdim=True)
        attributes = batch["node_attrs"]
        nodes = self.node_embedding(attributes)
        harmonics = self.spherical_harmonics(vectors)
        radial, cutoff = self.radial_embedding(
            lengths, attributes, batch["edge_index"], self.atomic_numbers
        )
        sums = [nodes.new_zeros(len(nodes)) for _ in range(3)]
        head = torch.zeros(len(nodes), dtype=torch.int64)
        for t, (interaction, product) in enumerate(
            zip(self.interactions, self.products, strict=True)
        ):
            nodes, skip = interaction(
                node_attrs=attributes,
                node_feats=nodes,
                edge_attrs=harmonics,
                edge_feats=radial,
                edge_index=batch["edge_index"],
                cutoff=cutoff,
                first_layer=t == 0,
            )
            nodes = product(node_feats=nodes, sc=skip, node_attrs=attributes)
            readouts = self.readouts[t], self.les_readouts[t], self.les_alpha_readouts[t]
            sums = [x + f(nodes, head)[:, 0] for x, f in zip(sums, readouts, strict=True)]
        energies, charges, roots = sums
        return (
            self.scale_shift(energies, head),
            self.les_output_scale * charges,
            (self.les_alpha_scale * roots) ** 2,
        )

    def energies(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Energies of the structures without those of their elements [eV]."""
        atomic, charges, alphas = self.latents(batch)
        atomic = atomic + latent_energies(charges, alphas, batch["positions"], batch["batch"])
        return atomic.new_zeros(len(batch["ptr"]) - 1).index_add(0, batch["batch"], atomic)


def latent_energies(
    charges: torch.Tensor, alphas: torch.Tensor, positions: torch.Tensor, batch: torch.Tensor
) -> torch.Tensor:
    """q phi / 2 - F alpha F / 2 of each atom [eV]; potential and field of the charges alone."""
    i, j = torch.nonzero(torch.triu(batch[:, None] == batch[None], 1), as_tuple=True)
    r = positions[j] - positions[i]
    square = r.square().sum(1)
    distance, a = square.sqrt(), 1 / (math.sqrt(2) * demo.SIGMA)
    b0 = torch.erf(a * distance) / distance
    b1 = (b0 - 2 * a / math.sqrt(math.pi) * torch.exp(-(a**2) * square)) / square
    potential = torch.zeros_like(charges)
    potential = potential.index_add(0, j, COULOMB * b0 * charges[i])
    potential = potential.index_add(0, i, COULOMB * b0 * charges[j])
    along = COULOMB * b1[:, None] * r
    field = torch.zeros_like(positions)
    field = field.index_add(0, j, along * charges[i][:, None])
    field = field.index_add(0, i, -along * charges[j][:, None])
    return 0.5 * (charges * potential - alphas * field.square().sum(1))


def start(path: Path) -> tuple[PolarizableMACE, np.ndarray]:
    """The demonstration model with new readouts, or one that has them; energies of elements [eV].

    The latter are taken out of the model: float32 would not resolve energies with them.
    """
    torch.manual_seed(1)
    model = torch.load(path, weights_only=False)
    model.__class__ = PolarizableMACE
    block = model.atomic_energies_fn
    references = block.atomic_energies.double().numpy().ravel().copy()
    block.atomic_energies = torch.zeros_like(block.atomic_energies, dtype=torch.float32)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if not hasattr(model, "les_alpha_readouts"):
            model.add_polarizabilities()
    return model, references


def save(model: PolarizableMACE, path: Path, references: np.ndarray) -> None:
    """Writes the model with the energies of its elements, as the class that mace itself pickles."""
    block = model.atomic_energies_fn
    block.atomic_energies = torch.tensor(references).reshape(block.atomic_energies.shape)
    model.__class__ = MACELES
    torch.save(model, path)
    model.__class__ = PolarizableMACE


def load(path: Path) -> PolarizableMACE:
    """A model that `save` wrote, in double precision. Runs the pickle: for files of one's own."""
    model = torch.load(path, weights_only=False).double()
    model.__class__ = PolarizableMACE
    return model
