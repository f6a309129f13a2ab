"""The families of models: which names their files hold, in one table.

A name is on a list if files of that family call for it; it then becomes an inert stand-in. Whatever
else a file calls for is refused before anything is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Family:
    """How to recognise a model file of one family.

    Attributes:
        name: of the canonical form, such as ``"mace"``.
        title: for people.
        file: what the file is and what writes it, for error messages.
        roots: full names of the classes of a whole model.
        names: full names of all classes and functions in such files, roots included.
        plain: classes of models of the same framework without LES, and what to do with them.
        options: classes of known options that openmm-les does not implement, and what they are.
        frameworks: namespaces of which an unlisted name is an unsupported option, not an alien.
        pairs: names that are harmless only if they come together and alone.
    """

    name: str
    title: str
    file: str
    roots: frozenset[str]
    names: frozenset[str]
    frameworks: tuple[str, ...]
    plain: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    pairs: frozenset[str] = frozenset()


_LES = frozenset(
    {
        "les.les.Les",
        "les.module.atomwise.Atomwise",
        "les.module.bec.BEC",
        "les.module.ewald.Ewald",
    }
)
_TORCH = frozenset(
    {
        "torch.nn.functional.silu",
        "torch.nn.modules.container.ModuleList",
        "torch.nn.modules.container.ParameterList",
    }
)
_PLAIN_MACE = "a plain MACE model without LES; openmm-ml runs it by itself (potential 'mace')"

#: All vintages: the fork of 2025 and mace-torch.
MACE = Family(
    name="mace",
    title="MACE-LES",
    file="'.model' file as written by mace-torch's training script",
    roots=frozenset({"mace.modules.models.MACELES", "mace.modules.extensions.MACELES"}),
    names=_LES
    | _TORCH
    | {
        "e3nn.math._normalize_activation.normalize2mom",
        "e3nn.nn._activation.Activation",
        "e3nn.nn._fc.FullyConnectedNet",
        "e3nn.nn._fc._Layer",
        "e3nn.o3._irreps.Irrep",
        "e3nn.o3._irreps.Irreps",
        "e3nn.o3._irreps._MulIr",
        "e3nn.o3._linear.Instruction",
        "e3nn.o3._linear.Linear",
        "e3nn.o3._spherical_harmonics.SphericalHarmonics",
        "e3nn.o3._tensor_product._instruction.Instruction",
        "e3nn.o3._tensor_product._sub.FullyConnectedTensorProduct",
        "e3nn.o3._tensor_product._tensor_product.TensorProduct",
        "les.les._DummyAtomwise",
        "mace.modules.blocks.AtomicEnergiesBlock",
        "mace.modules.blocks.EquivariantProductBasisBlock",
        "mace.modules.blocks.LinearNodeEmbeddingBlock",
        "mace.modules.blocks.LinearReadoutBlock",
        "mace.modules.blocks.NonLinearReadoutBlock",
        "mace.modules.blocks.RadialEmbeddingBlock",
        "mace.modules.blocks.RealAgnosticDensityInteractionBlock",
        "mace.modules.blocks.RealAgnosticDensityResidualInteractionBlock",
        "mace.modules.blocks.RealAgnosticInteractionBlock",
        "mace.modules.blocks.RealAgnosticResidualInteractionBlock",
        "mace.modules.blocks.ScaleShiftBlock",
        "mace.modules.extensions.MACELES",
        "mace.modules.irreps_tools.reshape_irreps",
        "mace.modules.models.MACELES",
        "mace.modules.radial.AgnesiTransform",
        "mace.modules.radial.BesselBasis",
        "mace.modules.radial.PolynomialCutoff",
        "mace.modules.radial.SoftTransform",
        "mace.modules.radial.ZBLBasis",
        "mace.modules.symmetric_contraction.Contraction",
        "mace.modules.symmetric_contraction.SymmetricContraction",
        "torch.fx._symbolic_trace.Tracer",
        "torch.fx.graph_module.reduce_graph_module",
    },
    frameworks=("mace.", "e3nn.", "les.", "torch.nn.", "torch.fx.", "numpy."),
    plain=dict.fromkeys(
        ("mace.modules.models.MACE", "mace.modules.models.ScaleShiftMACE"), _PLAIN_MACE
    ),
    options={
        "mace.modules.blocks.LinearLesReadoutBlock": "latent quadrupoles or polarisabilities",
        "mace.modules.blocks.NonLinearLesReadoutBlock": "latent quadrupoles or polarisabilities",
        "mace.modules.blocks.RealAgnosticAttResidualInteractionBlock": "attention in messages",
        "mace.modules.blocks.RealAgnosticResidualNonLinearInteractionBlock": "nonlinear messages",
        "mace.modules.radial.ChebychevBasis": "the Chebyshev radial basis",
        "mace.modules.radial.GaussianBasis": "the Gaussian radial basis",
        "mace.modules.radial.RadialMLP": "radial networks with biases and layer norms",
        "mace.modules.embeddings.GenericJointEmbedding": "embeddings of charge, spin or other "
        "specs",
        "mace.modules.extensions.PolarMACE": "PolarMACE electrostatics",
        "mace.modules.wrapper_ops.CuEquivarianceConfig": "cuEquivariance layers (convert them to "
        "e3nn)",
        "mace.modules.wrapper_ops.OEQConfig": "OpenEquivariance layers (convert them to e3nn)",
        "torch._C._VariableFunctionsClass": "an activation (gate) other than silu",
    },
    # How mace-torch's other gates (torch.tanh, torch.abs) are pickled.
    pairs=frozenset({"builtins.getattr", "torch._C._VariableFunctionsClass"}),
)

CACE = Family(
    name="cace",
    title="CACE-LES",
    file="'.pth' file as written by a CACE training with the les package",
    roots=frozenset({"cace.models.atomistic.NeuralNetworkPotential"}),
    names=_LES
    | _TORCH
    | {
        "cace.models.atomistic.NeuralNetworkPotential",
        "cace.modules.angular.AngularComponent",
        "cace.modules.atomwise.Atomwise",
        "cace.modules.blocks.Dense",
        "cace.modules.cutoff.PolynomialCutoff",
        "cace.modules.feature_mix.FeatureAdd",
        "cace.modules.forces.Forces",
        "cace.modules.interaction.MessageBchi",
        "cace.modules.les_wrapper.LesWrapper",
        "cace.modules.preprocess.Preprocess",
        "cace.modules.radial.BesselRBF",
        "cace.modules.radial_transform.SharedRadialLinearTransform",
        "cace.modules.symmetrize_basis.Symmetrizer",
        "cace.modules.type.EdgeEncoder",
        "cace.modules.type.NodeEmbedding",
        "cace.modules.type.NodeEncoder",
        "cace.representations.cace_representation.Cace",
        "les.module.blocks.Dense",
        "torch.device",
        "torch.nn.modules.container.Sequential",
        "torch.nn.modules.linear.Identity",
        "torch.nn.modules.linear.Linear",
    },
    frameworks=("cace.", "les.", "torch.nn.", "numpy."),
    options={
        "cace.modules.interaction.NodeMemory": "messages that keep an atom's own features (M)",
        "cace.modules.interaction.MessageAr": "messages of the A features (Ar)",
        "cace.modules.interaction.MessageArMLP": "messages of the A features (Ar)",
        "cace.modules.radial.GaussianRBF": "the Gaussian radial basis",
        "cace.modules.radial.GaussianRBFCentered": "the Gaussian radial basis",
        "cace.modules.radial.ExponentialDecayRBF": "the radial basis of exponentials",
        "cace.modules.cutoff.CosineCutoff": "the cosine cutoff",
        "cace.modules.cutoff.MollifierCutoff": "the mollifier cutoff",
        "cace.modules.cutoff.SwitchFunction": "the switching function",
        "cace.modules.ewald.EwaldPotential": "CACE's own Ewald sum in place of the les package",
        "cace.modules.zbl.ZBL": "ZBL pair repulsion",
    },
)

#: Not pickled whole: a checkpoint holds tensors and a configuration, and calls for nothing.
NEQUIP = Family(
    name="nequip",
    title="NequIP-LES",
    file="or Allegro-LES '.ckpt' checkpoint as written by nequip-train",
    roots=frozenset(),
    names=frozenset(),
    frameworks=("nequip.", "nequip_les.", "allegro.", "lightning."),
)

ALLEGRO = replace(NEQUIP, name="allegro", title="Allegro-LES")

#: Not pickled whole either: tensors and the arguments of constructors.
CHGNET = Family(
    name="chgnet",
    title="CHGNet-LES",
    file="directory as written by MatGL, with model.json, model.pt and state.pt",
    roots=frozenset(),
    names=frozenset(),
    frameworks=("matgl.", "dgl.", "lightning."),
)

#: By kind of file; checkpoints of NequIP and Allegro differ in their configuration only.
FAMILIES = (MACE, CACE, NEQUIP, CHGNET)


def family_of(names: set[str]) -> Family | None:
    """The family whose models call for these names; None if it is none."""
    return next((family for family in FAMILIES if names & family.roots), None)
