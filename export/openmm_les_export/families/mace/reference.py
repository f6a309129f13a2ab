"""The original model, for verification: mace-torch's own blocks with the weights of a file.

mace-torch's MACELES class needs the les package and changes its layout between versions, so the
model is put together block by block, each from its own record. Where mace-torch has no block, as
for some readouts of moments up to 0.3.16, it is written here. No other file imports mace-torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openmm_les.artifact.canonical import CanonicalModel
from openmm_les.errors import VerificationError
from openmm_les_export.checkpoints.records import Record
from openmm_les_export.checkpoints.unpickle import ModelFile
from openmm_les_export.families.les_parameters import les_parameters
from openmm_les_export.families.mace.accepted import ACCEPTED
from openmm_les_export.families.mace.heads import Head, choose_head
from openmm_les_export.families.mace.moment_reference import MomentFormulas, OuterProducts
from openmm_les_export.families.mace.moments import Readouts, moment_readouts
from openmm_les_export.families.mace.readouts import output_scale
from openmm_les_export.verification.multipoles import Moments
from openmm_les_export.verification.reference import (
    ORIGINAL_NETWORK,
    Array,
    AutogradReference,
    double_precision,
)

#: mace-torch switches torch's safe loading off for the process when it is imported.
_UNSAFE_LOAD = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def reference(opened: ModelFile, canonical: CanonicalModel) -> MACEReference:
    """The model of a file, with the head of its canonical form."""
    return MACEReference(opened.root, canonical.source.get("head"))


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Keeps what mace-torch and e3nn print, warn of and set in the environment to themselves."""
    before = os.environ.get(_UNSAFE_LOAD)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            os.environ.pop(_UNSAFE_LOAD, None)
        else:
            os.environ[_UNSAFE_LOAD] = before


def _import_mace() -> tuple[ModuleType, ModuleType, Any]:
    """mace-torch's blocks, e3nn's o3, and mace-torch's neighbour search."""
    with _quiet_import():
        import mace  # noqa: F401 - must precede e3nn, whose constants it allows to load
        from e3nn import o3
        from mace.data.neighborhood import get_neighborhood
        from mace.modules import blocks
    return blocks, o3, get_neighborhood


class MACEReference(AutogradReference):
    """A MACE-LES model in float64, evaluated with mace-torch's blocks."""

    def __init__(self, record: Record, head: str | None = None) -> None:
        ACCEPTED.check(record)
        self._head = choose_head(record, head)
        self._neighborhood = _import_mace()[2]
        self.versions = {"mace-torch": version("mace-torch")}
        self.cutoff = float(record.tensor("r_max"))
        self.elements = [int(z) for z in record.tensor("atomic_numbers")]
        self._les = les_parameters(record.module("les"))
        readouts = moment_readouts(record)
        if readouts:
            self.against = ORIGINAL_NETWORK
        self._network = _build(record, self._head, readouts)
        made = {name: getattr(self._network, name) for name in readouts}
        self._moments = MomentFormulas(record, made)

    def _pairs(self, positions: Array, cell: Array | None) -> tuple[Tensor, Tensor, Tensor]:
        edges, shifts, _, _ = self._neighborhood(
            positions=positions,
            cutoff=self.cutoff,
            pbc=(cell is not None,) * 3,
            cell=None if cell is None else cell.copy(),  # it is overwritten there
        )
        sender, receiver = torch.tensor(edges, dtype=torch.int64)
        return sender, receiver, torch.tensor(shifts)

    def _settings(self) -> contextlib.AbstractContextManager[None]:
        return double_precision()  # that of numbers in mace-torch's code

    def _short_range(
        self, vectors: Tensor, sender: Tensor, receiver: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor | Moments]:
        network = self._network
        edges = torch.stack([sender, receiver])
        numbers = torch.tensor(self.elements)[species]
        species = torch.nn.functional.one_hot(species, len(self.elements)).double()
        lengths = torch.linalg.norm(vectors, dim=-1, keepdim=True)
        harmonics = network.spherical_harmonics(vectors)
        pairs = (species, edges, torch.tensor(self.elements))
        transformed = lengths
        if network.distance_transform is not None:
            transformed = network.distance_transform(lengths, *pairs)
        basis = network.bessel_fn(transformed) * network.cutoff_fn(lengths)
        index, total = self._head.index, species @ network.references
        nodes = network.node_embedding(species)
        if network.joint_embedding is not None:
            nodes = nodes + self._condition_features(len(species))
            if network.embedding_readout is not None:
                total = total + network.embedding_readout(nodes)[:, index]
        outputs = []
        for interaction, product in zip(network.interactions, network.products, strict=True):
            nodes, connection = interaction(
                node_attrs=species,
                node_feats=nodes,
                edge_attrs=harmonics,
                edge_feats=basis,
                edge_index=edges,
            )
            nodes = product(node_feats=nodes, sc=connection, node_attrs=species)
            outputs.append(nodes)
        # A single readout of a deep model reads its last layer.
        read = outputs[-len(network.readouts) :]
        heads = torch.full((len(species),), index)
        energies = sum(f(x, heads) for f, x in zip(network.readouts, read, strict=True))[:, index]
        charges = sum(f(x, heads) for f, x in zip(network.les_readouts, read, strict=True))
        if network.pair_repulsion_fn is not None:
            energies = energies + network.pair_repulsion_fn(lengths, *pairs)
        total = total + network.scale * energies + network.shift
        charges = network.output_scale * charges[:, index]
        return total, self._moments(charges, read, heads, numbers)

    def _condition_features(self, num_atoms: int) -> Tensor:
        """What mace-torch adds to the embedding of each atom."""
        embedding = self._network.joint_embedding
        features = {}
        for name, spec in embedding.specs.items():
            value = torch.tensor(self._conditions[name], dtype=torch.float64)
            of_atoms = value.expand(num_atoms).unsqueeze(1)
            features[name] = value.reshape(1) if spec["per"] == "graph" else of_atoms
        added: Tensor = embedding(torch.zeros(num_atoms, dtype=torch.int64), features)
        return added


def _build(record: Record, head: Head, moments: Readouts) -> Any:
    """The short-range network: each block made from its record, then given its weights."""
    blocks, o3, _ = _import_mace()
    with double_precision():
        network: Any = torch.nn.Module()
        linear = record.module("node_embedding.linear")
        network.node_embedding = blocks.LinearNodeEmbeddingBlock(
            **{name: _irreps(o3, linear, name) for name in ("irreps_in", "irreps_out")}
        )
        radial = record.module("radial_embedding")
        r_max = float(record.tensor("r_max"))
        functions = radial.module("bessel_fn").tensor("bessel_weights").numel()
        network.bessel_fn = blocks.BesselBasis(r_max=r_max, num_basis=functions)
        power = int(radial.module("cutoff_fn").tensor("p"))
        network.cutoff_fn = blocks.PolynomialCutoff(r_max=r_max, p=power)
        network.distance_transform = _plain(radial.modules().get("distance_transform"))
        network.pair_repulsion_fn = _plain(record.modules().get("pair_repulsion_fn"))
        network.joint_embedding = _joint_embedding(record.modules().get("joint_embedding"))
        readout = record.modules().get("embedding_readout")
        network.embedding_readout = None if readout is None else _readout(blocks, o3, readout)
        harmonics = record.module("spherical_harmonics")
        network.spherical_harmonics = o3.SphericalHarmonics(
            _irreps(o3, harmonics, "irreps_out"),
            normalize=harmonics.value("normalize"),
            normalization=harmonics.value("normalization"),
        )
        builders = {"interactions": _interaction, "products": _product, "readouts": _readout}
        builders |= {"les_readouts": _readout, **dict.fromkeys(moments, _readout)}
        for name, build in builders.items():
            built = [build(blocks, o3, item) for item in record.items(name)]
            setattr(network, name, torch.nn.ModuleList(built))
        _give_weights(network, record, head, (*builders,))
        if moments and linear.tensor("weight").dtype == torch.float32:
            # What such a file's own modules hold.
            for name, buffer in network.named_buffers():
                if "_w3j_" in name:
                    buffer.copy_(buffer.float())
    return network.eval().requires_grad_(False)


def _irreps(o3: Any, record: Record, name: str) -> Any:
    return o3.Irreps([(irrep.mul, (irrep.l, irrep.p)) for irrep in record.irreps(name)])


def _plain(record: Record | None) -> Any:
    """A module of mace-torch's radial functions, which need no arguments; None for none."""
    if record is None:
        return None
    from mace.modules import radial

    return getattr(radial, record.kind)()


def _joint_embedding(record: Record | None) -> Any:
    """The embedding of conditions; None for none."""
    if record is None:
        return None
    from mace.modules.embeddings import GenericJointEmbedding

    width, specs = int(record.number("out_dim")), record.value("specs")
    return GenericJointEmbedding(base_dim=width, embedding_specs=specs, out_dim=width)


def _interaction(blocks: Any, o3: Any, record: Record) -> Any:
    names = ("node_attrs", "node_feats", "edge_attrs", "edge_feats", "target", "hidden")
    return getattr(blocks, record.kind)(
        **{f"{name}_irreps": _irreps(o3, record, f"{name}_irreps") for name in names},
        avg_num_neighbors=record.number("avg_num_neighbors"),
        radial_MLP=[int(width) for width in record.module("conv_tp_weights").value("hs")[1:-1]],
    )


def _product(blocks: Any, o3: Any, record: Record) -> Any:
    contraction = record.module("symmetric_contractions")
    first = contraction.items("contractions")[0]
    return blocks.EquivariantProductBasisBlock(
        node_feats_irreps=_irreps(o3, contraction, "irreps_in"),
        target_irreps=_irreps(o3, contraction, "irreps_out"),
        correlation=int(first.number("correlation")),
        num_elements=first.tensor("weights_max").shape[0],
        use_sc=record.value("use_sc"),
    )


def _readout(blocks: Any, o3: Any, record: Record) -> Any:
    if record.kind.endswith("LesReadoutBlock"):
        irreps = _irreps(o3, record, "irreps_in")
        return OuterProducts(o3.Linear(irreps, irreps), irreps[0].mul, record)
    if record.kind == "LinearReadoutBlock":
        linear = record.module("linear")
        inputs, outputs = (_irreps(o3, linear, name) for name in ("irreps_in", "irreps_out"))
        return blocks.LinearReadoutBlock(inputs, outputs)
    return blocks.NonLinearReadoutBlock(
        _irreps(o3, record.module("linear_1"), "irreps_in"),
        _irreps(o3, record, "hidden_irreps"),
        torch.nn.functional.silu,
        _irreps(o3, record.module("linear_2"), "irreps_out"),
        int(record.value("num_heads", 1)),
    )


def _give_weights(network: Any, record: Record, head: Head, lists: Sequence[str]) -> None:
    """Copies every tensor and activation constant of the file into the freshly built blocks."""
    radial = ("bessel_fn", "cutoff_fn", "distance_transform")
    paths = ("node_embedding", *(f"radial_embedding.{name}" for name in radial))
    others = ("pair_repulsion_fn", "joint_embedding", "embedding_readout")
    owned = [(path.split(".")[-1], path) for path in (*paths, *others)]
    # None for what this model lacks.
    blocks = [(getattr(network, name), path) for name, path in owned]
    pairs = [(block, record.module(path)) for block, path in blocks if block is not None]
    for name in lists:
        pairs += list(zip(getattr(network, name), record.items(name), strict=True))
    for block, source in pairs:
        weights = source.state_dict()
        for name, target in [*block.named_parameters(), *block.named_buffers()]:
            if name not in weights:
                continue  # marks that newer versions keep beside the weights
            weight = weights.pop(name)
            # Assigned, not copied: a file may hold fewer couplings than this mace-torch would make.
            target.data = weight.to(torch.float64) if weight.is_floating_point() else weight
        weights.pop("avg_num_neighbors", None)  # here an argument of the constructor
        if any(not name.endswith("_zeroed") for name in weights):
            raise VerificationError(
                f"verification: {source.path}: the installed mace-torch has no place for "
                f"{sorted(weights)}; upgrade it with 'pip install -U mace-torch'"
            )
        for name, module in block.named_modules():
            if type(module).__name__ == "normalize2mom":
                module.cst = source.module(name).number("cst")
    for name in ("scale", "shift"):
        values = record.module("scale_shift").tensor(name).reshape(-1)
        setattr(network, name, float(values[head.index]))
    network.output_scale = output_scale(record)
    references = record.module("atomic_energies_fn").tensor("atomic_energies").double()
    network.references = references.reshape(-1, references.shape[-1])[head.index]
