"""Net charges: the penalty, and the projection."""

import pytest
import torch

from openmm_les.errors import InputError
from openmm_les.learning import net_charge_penalty, net_charges, with_net_charge

BATCH = torch.tensor([0, 1, 0, 1, 1])
CHARGES = torch.tensor([0.3, 0.1, -0.1, 0.2, 0.6], dtype=torch.float64)


def test_penalty_is_the_mean_square_of_what_is_too_much():
    torch.testing.assert_close(net_charges(CHARGES, BATCH), CHARGES.new_tensor([0.2, 0.9]))
    assert float(net_charge_penalty(CHARGES, BATCH)) == pytest.approx((0.2**2 + 0.9**2) / 2)
    total = torch.tensor([0.0, 1.0])
    assert float(net_charge_penalty(CHARGES, BATCH, total)) == pytest.approx((0.2**2 + 0.1**2) / 2)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 3.0, 4.0, 0.5])])
def test_projection_is_exact_and_keeps_what_adds_up(weights):
    total = torch.tensor([0.0, 1.0, -1.0])
    charges = torch.cat([CHARGES, CHARGES.new_zeros(2)])
    batch = torch.cat([BATCH, torch.tensor([2, 2])])
    weights = None if weights is None else torch.cat([weights, torch.ones(2)])
    found = with_net_charge(charges, batch, total, weights)
    torch.testing.assert_close(net_charges(found, batch), total.double(), rtol=0, atol=1e-15)
    again = with_net_charge(found, batch, total, weights)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-15)
    if weights is None:
        torch.testing.assert_close(found[-2:], charges.new_tensor([-0.5, -0.5]))
    else:
        moved = (found - charges)[[0, 2]]
        assert float(moved[1] / moved[0]) == pytest.approx(3.0)


def test_several_charges_of_each_atom():
    charges = torch.stack([CHARGES, -2.0 * CHARGES], dim=1)
    found = with_net_charge(charges, BATCH)
    assert float(net_charges(found, BATCH).abs().max()) < 1e-15
    torch.testing.assert_close(found[:, 0], with_net_charge(CHARGES, BATCH))


def test_gradients():
    q = CHARGES.clone().requires_grad_()
    total = torch.tensor([0.5, 0.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda *x: with_net_charge(x[0], BATCH, x[1]) ** 2, (q, total)
    )
    assert torch.autograd.gradcheck(lambda *x: net_charge_penalty(x[0], BATCH, x[1]), (q, total))


def test_wrong_shapes():
    with pytest.raises(InputError, match=r"net charges, \[3\], got \[3, 1\]"):
        with_net_charge(CHARGES, BATCH, torch.zeros(3, 1))
    with pytest.raises(InputError, match="expected one for each of 5 atoms"):
        with_net_charge(CHARGES, BATCH, weights=torch.ones(4))
    for total in (torch.tensor(0.0), torch.zeros(1)):
        with pytest.raises(InputError, match="total_charge: expected one for each of 2 structures"):
            net_charge_penalty(CHARGES, BATCH, total)
    with pytest.raises(InputError, match="weights: expected numbers above 0"):
        with_net_charge(CHARGES, BATCH, weights=torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]))
