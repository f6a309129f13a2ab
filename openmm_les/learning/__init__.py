"""The LES energy for training: differentiable twice, with every derivative a sum in closed form."""

from openmm_les.learning.energy import LES
from openmm_les.learning.neutrality import net_charge_penalty, net_charges, with_net_charge

__all__ = ["LES", "net_charge_penalty", "net_charges", "with_net_charge"]
