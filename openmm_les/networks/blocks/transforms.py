"""Distance transforms: the radial basis sees t(r) in place of r, which depends on both elements.

The envelope stays a function of r. `TransformedBasis` takes the place of `BesselBasis`.
"""

from typing import List, Mapping, Optional, Tuple, Union

import torch
from torch import nn

from openmm_les.networks.blocks.radial import BesselBasis, polynomial_envelope


class AgnesiTransform(nn.Module):
    """1 / (1 + a u^q / (1 + u^(q - p))) of u = r / r0, r0 the mean of the covalent radii.

    Witt et al., J. Chem. Phys. 159, 164101 (2023).
    """

    def __init__(self, a: float, q: float, p: float) -> None:
        super().__init__()
        self.a, self.q, self.p = a, q, p

    def forward(self, r: torch.Tensor, radii: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """t and dt/dr of distances and sums of covalent radii, all of one shape."""
        length = 0.5 * radii
        u = r / length
        # u^q / (1 + u^(q - p)) in a form that does not overflow for small u.
        share = 1.0 / (1.0 + u ** (self.p - self.q))
        s = u**self.p * share
        t = 1.0 / (1.0 + self.a * s)
        slope = s / u * (self.q + (self.p - self.q) * share)
        return t, -t * t * self.a * slope / length


class SoftTransform(nn.Module):
    """p0 + (r - p0) (1 + tanh(c (r - m))) / 2: r beyond the bond, constant within.

    p0 = 3/4 r0, p1 = 4/3 r0, m their mean, c = alpha / (p1 - p0), r0 the sum of the covalent radii;
    the definition is mace-torch's.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, r: torch.Tensor, radii: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """See `AgnesiTransform.forward`."""
        low, high = 0.75 * radii, 4.0 / 3.0 * radii
        steepness = self.alpha / (high - low)
        tanh = torch.tanh(steepness * (r - 0.5 * (low + high)))
        step = 0.5 * (1.0 + tanh)
        slope = 0.5 * steepness * (1.0 - tanh * tanh)
        return low + (r - low) * step, step + (r - low) * slope


class TransformedBasis(nn.Module):
    """Bessel functions of a transformed distance, times the envelope in the distance itself.

    Args:
        basis: the radial basis of the model.
        transform: entry ``distance_transform`` of the hyper-parameters.
        radii: covalent radii of the species, shape [Z] [A].
    """

    def __init__(
        self, basis: BesselBasis, transform: Mapping[str, Union[str, float]], radii: torch.Tensor
    ) -> None:
        super().__init__()
        self.basis = basis
        self.cutoff = basis.cutoff
        parameters = {name: float(value) for name, value in transform.items() if name != "kind"}
        kinds = {"agnesi": AgnesiTransform, "soft": SoftTransform}
        self.transform = kinds[str(transform["kind"])](**parameters)
        self.radii = nn.Buffer((radii.unsqueeze(1) + radii).flatten())

    def forward(
        self, distances: torch.Tensor, pairs: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """See `ExactRadial.forward`."""
        assert pairs is not None
        r = distances.unsqueeze(1)
        t, dt = self.transform(r, self.radii.index_select(0, pairs).unsqueeze(1))
        bessel, slope = self.basis.bessel(t)
        envelope, steepness = polynomial_envelope(r / self.cutoff, self.basis.order)
        return bessel * envelope, slope * dt * envelope + bessel * steepness / self.cutoff

    def functions(self) -> Tuple[List[int], torch.Tensor]:
        """See `BesselBasis.functions`: pairs with the same sum of radii share theirs."""
        radii = self.radii.tolist()
        distinct = sorted(set(radii))
        functions = [distinct.index(radius) for radius in radii]
        return [radii.index(radius) for radius in distinct], torch.tensor(functions)
