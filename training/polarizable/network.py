"""MACE with latent charges and anisotropic polarizabilities, in the layout of mace's own files.

Layers and readouts are mace-torch's (MIT); the readout of the tensors and the energy are written
from their formulas: open structures, point fields of the Gaussian charges, one response to the
field of the permanent charges. `save` writes a ``.model`` file that ``openmm-les export`` reads.
"""

import contextlib
import io
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "les_demo"))
import train as demo  # the classes that stand for those of the les package, under its names

demo.register_les()
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import mace.modules.blocks as blocks
    from e3nn import o3
    from mace.modules.extensions import MACELES

ELEMENTS = [1, 6, 7, 8]
CUTOFF = 4.0
CHANNELS = 16
#: c = e^2 / (4 pi eps0) of the LES convention [eV A].
COULOMB = demo.PREFACTOR / (2 * math.pi)
CHARGE_SCALE, ALPHA_SCALE = 0.3, 0.1


class LinearLesReadoutBlock(torch.nn.Module):
    """T = sum_c w_c v_c v_c^T of vectors v and weights w that are linear in the node features."""

    def __init__(self, irreps_in: o3.Irreps) -> None:
        super().__init__()
        n = irreps_in.count("0e")
        self.irreps_in, self.make_w_pos, self.ir_mul = irreps_in, False, False
        self.scalar_slices, self.vector_1o_slices, self.vector_1e_slices = [(0, n)], [(n, 4 * n)], []
        self.n_scalar, self.n_1o, self.n_1e = n, n, 0
        self.linear = o3.Linear(irreps_in, irreps_in)
        self.scalar_to_weight_1o = torch.nn.Linear(n, n)
        self.scalar_to_weight_1e = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Tensors [n, 3, 3] of features [n, 4 C]."""
        mixed = self.linear(features)
        weights = self.scalar_to_weight_1o(mixed[:, : self.n_scalar])
        vectors = mixed[:, self.n_scalar :].reshape(len(mixed), self.n_1o, 3)
        return torch.einsum("nc,nca,ncb->nab", weights, vectors, vectors)


LinearLesReadoutBlock.__module__ = "mace.modules.blocks"
if not hasattr(blocks, "LinearLesReadoutBlock"):
    blocks.LinearLesReadoutBlock = LinearLesReadoutBlock


class PolarizableMACE(MACELES):
    """Energies, charges q [e] and polarizabilities alpha [e A^2/V] of a batch of open structures."""

    def __init__(self, **arguments: Any) -> None:
        hidden = arguments["hidden_irreps"]
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            super().__init__(keep_last_layer_irreps=True, **arguments)
            self.les_alpha_readouts = torch.nn.ModuleList(
                [
                    blocks.LinearReadoutBlock(hidden, o3.Irreps("0e")),
                    blocks.NonLinearReadoutBlock(
                        hidden, arguments["MLP_irreps"], arguments["gate"], o3.Irreps("0e"), 1
                    ),
                ]
            )
        self.les_alpha_1o_readouts = torch.nn.ModuleList(
            LinearLesReadoutBlock(hidden) for _ in range(2)
        )
        for name in ("u", "quad_2e", "quad_1o", "alpha_2e", "kappa"):
            setattr(self, f"les_{name}_readouts", torch.nn.ModuleList())
        self.use_dipoles = self.use_quads = self.use_induced_charges = False
        self.use_induced_dipoles = self.use_anisotropic_polarizability = True
        self.alpha_irreps = "0e+1o"
        self.alpha_1o_nonlinear_readout = self.alpha_1o_linear_w_pos = False
        self.make_alpha_positive, self.make_kappa_positive = True, False
        self.les_output_scale, self.les_kappa_scale = CHARGE_SCALE, 0.01
        self.les_alpha_scale = ALPHA_SCALE

    def latents(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Energies of atoms [n] without the latent part, charges [n], polarizabilities [n, 3, 3]."""
        receiver = batch["edge_index"][1]
        vectors = batch["positions"][receiver] - batch["positions"][batch["edge_index"][0]]
        lengths = vectors.norm(dim=1, keepdim=True)
        attributes = batch["node_attrs"]
        nodes = self.node_embedding(attributes)
        harmonics = self.spherical_harmonics(vectors)
        radial, cutoff = self.radial_embedding(
            lengths, attributes, batch["edge_index"], self.atomic_numbers
        )
        energies, charges = nodes.new_zeros(len(nodes)), nodes.new_zeros(len(nodes))
        alphas = nodes.new_zeros(len(nodes), 3, 3)
        identity = torch.eye(3, dtype=nodes.dtype)
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
            head = torch.zeros(len(nodes), dtype=torch.int64)
            energies = energies + self.readouts[t](nodes, head)[:, 0]
            charges = charges + self.les_readouts[t](nodes, head)[:, 0]
            scalars = self.les_alpha_readouts[t](nodes, head)[:, :1]
            alphas = alphas + scalars[:, :, None] * identity + self.les_alpha_1o_readouts[t](nodes)
        head = torch.zeros(len(nodes), dtype=torch.int64)
        roots = self.les_alpha_scale * alphas
        return (
            self.scale_shift(energies, head),
            self.les_output_scale * charges,
            roots @ roots.transpose(1, 2),
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
    induced = torch.einsum("na,nab,nb->n", field, alphas, field)
    return 0.5 * (charges * potential - induced)


def build(mean_neighbors: float, force_scale: float) -> PolarizableMACE:
    """A model with zero reference energies: float32 would not resolve energies with them."""
    torch.manual_seed(1)
    return PolarizableMACE(
        les_arguments={"use_atomwise": False},
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=blocks.RealAgnosticResidualInteractionBlock,
        num_interactions=2,
        num_elements=len(ELEMENTS),
        hidden_irreps=o3.Irreps(f"{CHANNELS}x0e+{CHANNELS}x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.zeros(len(ELEMENTS)),
        avg_num_neighbors=mean_neighbors,
        atomic_numbers=ELEMENTS,
        correlation=2,
        gate=torch.nn.functional.silu,
        radial_MLP=[32, 32],
        atomic_inter_scale=force_scale,
        atomic_inter_shift=0.0,
    )


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
