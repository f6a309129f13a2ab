"""MACE with latent charges and polarizabilities, in the layout of mace's own files.

Layers and readouts are mace-torch's (MIT), the weights to start from are the demonstration model's,
the latent energy is that of `openmm_les.learning`, with one response to the field of the permanent
charges. `save` writes a ``.model`` file that ``openmm-les export`` reads.
"""

import contextlib
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from openmm_les.learning import LES
from openmm_les.learning.stand_in import register

sys.path.insert(0, str(Path(__file__).parents[1] / "les_demo"))
import dataset
import train as demo  # the training of the demonstration model
from equations import readouts_of

register()

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import mace.modules.blocks as blocks
    from mace.modules.extensions import MACELES

ELEMENTS = dataset.ELEMENTS
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
        energies, charges, roots = readouts_of(
            self,
            batch["node_attrs"],
            batch["positions"][receiver] - batch["positions"][sender],
            batch["edge_index"],
            batch["opposite"],
            [self.readouts, self.les_readouts, self.les_alpha_readouts],
        )
        return (
            self.scale_shift.scale * energies,
            self.les_output_scale * charges,
            (self.les_alpha_scale * roots) ** 2,
        )

    def energies(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies of the structures without those of their elements [eV], and charges [e]."""
        atomic, charges, alphas = self.latents(batch)
        latent = LES()(charges, batch["positions"], batch["batch"], alpha=alphas)
        return latent.index_add(0, batch["batch"], atomic), charges


def start(path: Path, references: np.ndarray) -> PolarizableMACE:
    """The demonstration model with new readouts, or one that has them.

    It becomes one of energies without `references`, those of the elements [eV].
    """
    torch.manual_seed(1)
    model = torch.load(path, weights_only=False)
    model.__class__ = PolarizableMACE
    demo.take_references(model, references)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        if not hasattr(model, "les_alpha_readouts"):
            model.add_polarizabilities()
    return model


def save(model: PolarizableMACE, path: Path, references: np.ndarray) -> None:
    """Writes the model as `demo.save` does, as the class that mace itself pickles."""
    atoms = dataset.atom_energies(demo.HERE / "liquid.npz")
    model.__class__ = MACELES
    demo.save(model, path, references, atoms, demo.spare_feature(model))
    model.__class__ = PolarizableMACE


def load(path: Path) -> PolarizableMACE:
    """A model that `save` wrote, in double precision. Runs the pickle: for files of one's own."""
    model = torch.load(path, weights_only=False).double()
    model.__class__ = PolarizableMACE
    return model
