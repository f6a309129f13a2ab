"""Models to measure, each as an artifact and as an object of mace-torch with the same weights."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from openmm_les_export import export
from peers import mace_model, register_stand_in

from step.systems import ROOT, SHARED

OFF = "maceles-off"
#: Files of trained models; what is not there is left out.
TRAINED = {
    "water": SHARED / "models" / "mace_les_water_r4.5_nl1_l0.model",
    "dipeptide": SHARED / "models" / "mace_les_dipep_r4_l0.model",
    "les-demo": ROOT / "training" / "les_demo" / "les-demo.model",
}
#: Elements that only some of the structures have.
_ELEMENTS = {"water": {1, 8}, "dipeptide": {1, 6, 7, 8}, "les-demo": {1, 6, 7, 8}}


@dataclass(frozen=True)
class Model:
    """One set of weights.

    Attributes:
        name: as on the command line.
        artifact: for openmm-les.
        peer: pickled object of mace-torch, float32.
    """

    name: str
    artifact: Path
    peer: Path


def names() -> list[str]:
    """Models that can be measured here."""
    return [OFF, *(name for name, path in TRAINED.items() if path.exists())]


def describes(name: str, numbers: np.ndarray) -> bool:
    """Whether a model knows the elements of a structure."""
    return name == OFF or set(numbers.tolist()) <= _ELEMENTS[name]


def prepare(name: str, folder: Path) -> Model:
    """Export a model as users do, and save the peer with the same weights."""
    path = folder / f"{name}.model" if name == OFF else TRAINED[name]
    if name == OFF:
        with _quiet():
            torch.save(random_maceles_off(), path)
    artifact = export(path, folder / f"{name}.les.pt")
    peer = folder / f"{name}.peer"
    with _quiet():
        torch.save(mace_model(path), peer)
    return Model(name, artifact, peer)


def random_maceles_off() -> torch.nn.Module:
    """The architecture of MACELES-OFF with random weights.

    Its forces are of 0.1 to 1 eV/A and its charges of 0.1 e, so that some steps of dynamics
    change nothing in what is measured.
    """
    register_stand_in()
    with _quiet():
        import mace  # noqa: F401 - sets what e3nn needs to be imported
        from e3nn import o3
        from mace.modules import blocks, extensions

        torch.manual_seed(1)
        model = extensions.MACELES(
            les_arguments={},
            r_max=4.5,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=blocks.RealAgnosticResidualInteractionBlock,
            interaction_cls_first=blocks.RealAgnosticResidualInteractionBlock,
            num_interactions=2,
            num_elements=10,
            hidden_irreps=o3.Irreps("192x0e + 192x1o"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(10),
            avg_num_neighbors=15.65,
            atomic_numbers=[1, 6, 7, 8, 9, 15, 16, 17, 35, 53],
            correlation=3,
            gate=torch.nn.functional.silu,
            radial_MLP=[64, 64, 64],
            atomic_inter_scale=4.0,
            atomic_inter_shift=0.0,
            # Else the couplings depend on whether cuequivariance is installed.
            use_reduced_cg=False,
        )
    return model.float().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """mace-torch and e3nn print and warn when they are imported."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
