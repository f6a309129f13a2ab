"""Which atoms of a model MM charges act on, and where its link atoms are."""

from typing import Sequence

import torch
from torch import Tensor, nn


class Sites(nn.Module):
    """ML atoms among the atoms of a model, and its link atoms, which belong to ML atoms."""

    def __init__(self, order: Tensor, hosts: Sequence[int]) -> None:
        """Find them.

        Args:
            order: index of each atom of the model, in the order in which kernels get them.
            hosts: for each link atom, the index of its ML atom; link atoms come last.
        """
        super().__init__()
        places, num_sites = torch.argsort(order), len(order) - len(hosts)
        self.sites = nn.Buffer(places[:num_sites])
        self.caps = nn.Buffer(places[num_sites:])
        self.hosts = nn.Buffer(torch.tensor(hosts, dtype=torch.int64))  # places in `sites`
        self.num_atoms = len(order)

    def of(self, values: Tensor) -> Tensor:
        """The rows of ML atoms among those of all atoms."""
        return values.index_select(0, self.sites)

    def on_atoms(self, values: Tensor) -> Tensor:
        """Rows of all atoms from those of ML atoms, 0 for link atoms."""
        zeros = values.new_zeros([self.num_atoms] + list(values.shape[1:]))
        return zeros.index_add(0, self.sites, values)

    def folded(self, values: Tensor) -> Tensor:
        """Of ML atoms, from values [n] of all: what link atoms have is added to their hosts."""
        return self.of(values).index_add(0, self.hosts, values.index_select(0, self.caps))

    def unfolded(self, derivatives: Tensor) -> Tensor:
        """Derivatives by the values of all atoms [n], from those by what `folded` returns."""
        on_caps = derivatives.index_select(0, self.hosts)
        return self.on_atoms(derivatives).index_add(0, self.caps, on_caps)
