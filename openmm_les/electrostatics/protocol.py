"""What every electrostatic kernel offers, and what it returns."""

from typing import NamedTuple, Optional, Protocol

from torch import Tensor


class ElectrostaticTerms(NamedTuple):
    """Energy of charges and its first derivatives, outside the autograd graph."""

    energy: Tensor  #: float64, shape [] [eV]; NaN where `outgrown`.
    potential: Tensor  #: dE/dq at fixed positions, of the shape of the charges [eV/e].
    gradient: Tensor  #: dE/dr at fixed charges, shape [n, 3] [eV/A].
    #: dE/dstrain at fixed charges and fractional coordinates, float64, shape [3, 3] [eV].
    strain: Tensor
    #: whether the box has outgrown the buffers of the kernel (also if it is NaN), bool, shape [].
    outgrown: Tensor
    #: Induced charges and dipoles of models with latent moments, shape [4, n] [e, e A].
    induced: Optional[Tensor] = None


class ElectrostaticKernel(Protocol):
    """An ``nn.Module`` without learnt parameters that computes the energy of charges.

    It scripts, has static shapes, and reads nothing back from the device. The potential and the
    gradient have the precision of its sums.
    """

    def __call__(self, charges: Tensor, positions: Tensor, cell: Tensor) -> ElectrostaticTerms:
        """The energy and its first derivatives.

        Args:
            charges: latent charges [e], shape [n]; [channels, n] for several charges of each atom,
                whose energies add up. An embedding takes [n] alone. Kernels of multipoles take
                latents [rows, n], see `openmm_les.electrostatics.multipoles.LatentLayout`.
            positions: coordinates [A], float64, shape [n, 3]; atoms may lie outside the cell. An
                embedding takes those of the m MM charges too, [n + m, 3], and so has its gradient.
            cell: lattice vectors in rows [A], float64, shape [3, 3], of either handedness; ignored
                by kernels that are not periodic.
        """
        ...
