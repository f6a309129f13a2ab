"""The network of the demonstration models, written out with the weights of mace's modules.

mace-torch evaluates any network; this one has scalar features alone and products of two, so that a
step of training takes a third of the time here. ``train.py`` compares the two before it
starts. (Batatia et al., NeurIPS 35, 11423 (2022).)
"""

import math

import torch
from torch import Tensor


class Pairs:
    """Edges, ordered by receiver, in rows of the neighbours of each atom.

    Attributes:
        forward: one edge of each pair of opposite edges.
        pair: for each edge, which of `forward` has its length.
    """

    def __init__(self, edges: Tensor, opposite: Tensor, atoms: int) -> None:
        ones = torch.arange(len(opposite))
        self.forward = torch.nonzero(ones < opposite)[:, 0]
        number = torch.empty_like(ones)
        number[self.forward] = torch.arange(len(self.forward))
        self.pair = number[torch.minimum(ones, opposite)]
        self.sender, receiver = edges
        counts = torch.bincount(receiver, minlength=atoms)
        slots = torch.arange(int(counts.max()))
        index = (counts.cumsum(0) - counts)[:, None] + slots
        self.index = torch.where(slots < counts[:, None], index, len(self.sender))

    def rows(self, values: Tensor) -> Tensor:
        """From [edges, c] to [atoms, neighbours, c], zeros where there is none."""
        padded = torch.nn.functional.pad(values, (0, 0, 0, 1))
        return padded.index_select(0, self.index.flatten()).view(*self.index.shape, -1)


def readouts_of(
    model: torch.nn.Module,
    species: Tensor,
    vectors: Tensor,
    edges: Tensor,
    opposite: Tensor,
    readouts: list[torch.nn.ModuleList],
) -> list[Tensor]:
    """Sums over the layers of each list of readouts, shape [n].

    Args:
        model: a MACE with scalar features, correlation 2, and residual interactions.
        species: one-hot, shape [n, elements].
        vectors: from sender to receiver, shape [edges, 3] [A].
        edges: sender and receiver, ordered by receiver, shape [2, edges].
        opposite: index of the edge that goes back, shape [edges].
        readouts: of the energy, the charge and others, with one module for each layer.
    """
    pairs = Pairs(edges, opposite, len(species))
    lengths = vectors.norm(dim=1, keepdim=True)
    # Both directions of a pair have the same radial functions.
    once = lengths[pairs.forward]
    radial, _ = model.radial_embedding(once, species, edges, model.atomic_numbers)
    harmonics = pairs.rows(model.spherical_harmonics(vectors))
    degrees = math.isqrt(harmonics.shape[2])
    of_degree = torch.arange(degrees).repeat_interleave(2 * torch.arange(degrees) + 1)
    select = torch.nn.functional.one_hot(of_degree, degrees).to(vectors)  # [m, degrees]
    nodes = model.node_embedding(species)
    channels, elements = nodes.shape[1], species.shape[1]
    sums = [nodes.new_zeros(len(nodes)) for _ in readouts]
    for t, (interaction, product) in enumerate(
        zip(model.interactions, model.products, strict=True)
    ):
        skip = interaction.skip_tp.weight.view(channels, elements * channels)
        skip = skip / math.sqrt(channels * elements)
        sent = linear(nodes, interaction.linear_up.weight).index_select(0, pairs.sender)
        weights = interaction.conv_tp_weights(radial).index_select(0, pairs.pair)
        values = pairs.rows((weights.view(-1, degrees, channels) * sent.unsqueeze(1)).flatten(1))
        # Every component with the channels of every degree: few operations, some for nothing.
        sums_over = torch.bmm(harmonics.transpose(1, 2), values)  # [n, m, degrees * channels]
        mixing = interaction.linear.weight.view(1, degrees, channels, channels)
        mixing = select[:, :, None, None] * mixing
        mixing = mixing / (math.sqrt(channels) * float(interaction.avg_num_neighbors))
        mixed = torch.bmm(sums_over.transpose(0, 1), mixing.flatten(1, 2))  # [m, n, channels]
        contraction = product.symmetric_contractions.contractions[0]
        paths, factors = squares_of(contraction)
        of_squares = (species @ contraction.weights_max[:, paths].flatten(1)).view(
            len(nodes), degrees, channels
        )
        squares = (select.T @ mixed.square().flatten(1)).view(degrees, len(nodes), channels)
        features = (factors[:, None] * of_squares * squares.transpose(0, 1)).sum(dim=1)
        own = species @ contraction.weights[0].flatten(1)  # [n, channels]
        features = features + contraction.U_matrix_1[:, 0].abs().max() * own * mixed[0]
        features = linear(features, product.linear.weight)
        own = (nodes @ skip).view(-1, elements, channels)
        nodes = features + (own * species.unsqueeze(2)).sum(dim=1)
        sums = [x + readout(nodes, parts[t]) for x, parts in zip(sums, readouts, strict=True)]
    return sums


def squares_of(contraction: torch.nn.Module) -> tuple[list[int], Tensor]:
    """Path and factor of the square of each degree."""
    found = {}
    matrices = contraction.U_matrix_2
    for path in range(matrices.shape[2]):
        diagonal = matrices[:, :, path].diagonal()
        place = int(diagonal.abs().argmax())
        found[math.isqrt(place)] = (path, diagonal[place])
    paths, factors = zip(*(found[degree] for degree in sorted(found)), strict=True)
    return list(paths), torch.stack(factors)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.view(x.shape[1], -1) / math.sqrt(x.shape[1])


def readout(nodes: Tensor, module: torch.nn.Module) -> Tensor:
    """A linear readout of mace, or one with a hidden layer, shape [n]."""
    if hasattr(module, "linear"):
        return linear(nodes, module.linear.weight)[:, 0]
    hidden = module.non_linearity(linear(nodes, module.linear_1.weight))
    return linear(hidden, module.linear_2.weight)[:, 0]
