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
        return torch.nn.functional.pad(values, (0, 0, 0, 1))[self.index]


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
    blocks = [2 * degree + 1 for degree in range(degrees)]
    nodes = model.node_embedding(species)
    channels, elements = nodes.shape[1], species.shape[1]
    sums = [nodes.new_zeros(len(nodes)) for _ in readouts]
    for t, (interaction, product) in enumerate(
        zip(model.interactions, model.products, strict=True)
    ):
        skip = interaction.skip_tp.weight.view(channels, elements * channels)
        skip = skip / math.sqrt(channels * elements)
        sent = linear(nodes, interaction.linear_up.weight)[pairs.sender]
        weights = interaction.conv_tp_weights(radial)[pairs.pair].view(-1, degrees, channels)
        values = pairs.rows((weights * sent.unsqueeze(1)).flatten(1))
        mixing = interaction.linear.weight.view(degrees, channels, channels)
        mixing = mixing / (math.sqrt(channels) * float(interaction.avg_num_neighbors))
        contraction = product.symmetric_contractions.contractions[0]
        first = contraction.U_matrix_1[:, 0].abs().max()
        own = species @ contraction.weights[0].flatten(1)  # [n, channels]
        of_squares = (species @ contraction.weights_max.flatten(1)).view(len(nodes), -1, channels)
        features = torch.zeros_like(nodes)
        by_degree = zip(
            values.split(channels, dim=2),
            harmonics.split(blocks, dim=2),
            squares_of(contraction),
            strict=True,
        )
        for degree, (one, other, (path, factor)) in enumerate(by_degree):
            sums_over = torch.bmm(other.transpose(1, 2), one) @ mixing[degree]  # [n, m, channels]
            if degree == 0:
                features = features + first * own * sums_over[:, 0]
            features = features + factor * of_squares[:, path] * sums_over.square().sum(dim=1)
        features = linear(features, product.linear.weight)
        own = (nodes @ skip).view(-1, elements, channels)
        nodes = features + (own * species.unsqueeze(2)).sum(dim=1)
        sums = [x + readout(nodes, parts[t]) for x, parts in zip(sums, readouts, strict=True)]
    return sums


def squares_of(contraction: torch.nn.Module) -> list[tuple[int, float]]:
    """Path and factor of the square of each degree."""
    found = {}
    matrices = contraction.U_matrix_2
    for path in range(matrices.shape[2]):
        diagonal = matrices[:, :, path].diagonal()
        place = int(diagonal.abs().argmax())
        found[math.isqrt(place)] = (path, float(diagonal[place]))
    return [found[degree] for degree in sorted(found)]


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.view(x.shape[1], -1) / math.sqrt(x.shape[1])


def readout(nodes: Tensor, module: torch.nn.Module) -> Tensor:
    """A linear readout of mace, or one with a hidden layer, shape [n]."""
    if hasattr(module, "linear"):
        return linear(nodes, module.linear.weight)[:, 0]
    hidden = module.non_linearity(linear(nodes, module.linear_1.weight))
    return linear(hidden, module.linear_2.weight)[:, 0]
