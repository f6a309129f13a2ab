"""What is added to the loss of a trainer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from openmm_les.learning.neutrality import net_charge_penalty


class NetChargeLoss(nn.Module):
    """A loss of mace-torch with the penalty of net charges, see `net_charge_penalty`."""

    def __init__(self, loss: nn.Module, weight: float) -> None:
        """Add ``weight`` [1/e^2] times the penalty to a loss."""
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, ref: Any, pred: dict[str, Tensor], ddp: bool | None = None) -> Tensor:
        """The loss of a batch.

        mace-torch gives every batch the ``total_charge`` of its structures, 0 where the data state
        none.
        """
        loss: Tensor = self.loss(ref, pred, ddp)
        charges = pred["latent_charges"]
        penalty = net_charge_penalty(charges, ref["batch"], ref["total_charge"].view(-1))
        return loss + self.weight * penalty

    def extra_repr(self) -> str:
        return f"net_charge_weight={self.weight:g}"
