"""The error function in interactions of charges: values and slopes that are smooth everywhere."""

import math

import torch
from torch import Tensor


def erf_over_x(x2: Tensor) -> tuple[Tensor, Tensor]:
    """f = erf(x)/x and (df/dx)/x as functions of x^2, smooth down to x = 0.

    Their limits are 2/sqrt(pi) and -4/(3 sqrt(pi)).
    """
    scale = 2.0 / math.sqrt(math.pi)
    positive = x2.clamp(min=1e-30)
    x = torch.sqrt(positive)
    value = torch.erf(x) / x
    # exp(-81) = 7e-36: no digit of the difference; smaller numbers would be subnormal and slow.
    slope = (scale * torch.exp(-positive.clamp(max=81.0)) - value) / positive
    # The difference above cancels for small x. There, five terms of the Taylor series
    # 2 scale sum_n (-1)^n n x^(2n-2) / (n! (2n+1)) are exact to 1e-12.
    series = x2 * (-1.0 / 264.0) + 1.0 / 54.0
    series = series * x2 - 1.0 / 14.0
    series = series * x2 + 1.0 / 5.0
    series = series * x2 - 1.0 / 3.0
    return value, torch.where(x2 < 1e-2, 2.0 * scale * series, slope)


def erfc_over_r(r: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """f = erfc(a r)/r and (df/dr)/r, for r > 0 of any shape and an inverse length a, shape []."""
    x = (a * r).clamp(max=9.0)  # as above: erfc(9) = 4e-37
    inverse = 1.0 / r
    value = torch.erfc(x) * inverse
    gauss = torch.exp(-(x * x)) * (2.0 / math.sqrt(math.pi) * a)
    return value, -(value + gauss) * (inverse * inverse)
