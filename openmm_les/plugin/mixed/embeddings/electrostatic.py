"""Electrostatic embedding: MM charges act on the region, and its latent charges on them."""

from __future__ import annotations

import dataclasses
import math
import numbers
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import openmm
from openmm import app

from openmm_les.arrays import FloatArray
from openmm_les.electrostatics.embedding import ScaledPair, Surroundings, charge_factor
from openmm_les.errors import InputError, SimulationError
from openmm_les.evaluation.checks import check_single_charge
from openmm_les.names import Option, check_options, described
from openmm_les.networks.conditions import conditions_of
from openmm_les.plugin.forces import ForceOptions, backends, install, present, pythonforce
from openmm_les.plugin.forces.pythonforce import LESCompute
from openmm_les.plugin.mixed import nonbonded
from openmm_les.plugin.mixed.boundary_charges import BondCharge, Scheme
from openmm_les.plugin.mixed.embeddings import EmbeddingOptions, MixedRequest
from openmm_les.plugin.mixed.embeddings.mechanical import MixedCompute
from openmm_les.plugin.mixed.geometry import RegionGeometry
from openmm_les.plugin.mixed.interpolation import Sums, scaled
from openmm_les.plugin.mixed.mm_field import MMField, read_field

if TYPE_CHECKING:
    from openmm_les.artifact import Artifact
    from openmm_les.evaluation.results import Evaluation

#: So many evaluations in a row may miss the charge of the region: minimisers try, and turn back.
MAX_EVALUATIONS_OFF_CHARGE = 20


@described
@dataclass(frozen=True)
class ElectrostaticOptions:
    """How MM charges act on the region, with ``embedding='electrostatic'``."""

    boundaryCharges: Annotated[Scheme, Option("what becomes of MM charges at cut bonds")] = "rcd"
    charge: Annotated[
        int | None, Option("of the ML region [e]; None: the rounded sum of its MM charges")
    ] = None
    allowNetCharge: Annotated[
        Literal[True, False], Option("accept a region that is not neutral")
    ] = False
    chargeTolerance: Annotated[
        float,
        Option("how far the sum of latent charges may be from the charge of the region [e]"),
    ] = 0.25
    mlImages: Annotated[
        Literal["exact", "native"],
        Option(
            "exact: the region's periodic images are point charges around a region without "
            "images; native: they are those of the model, as it was trained"
        ),
    ] = "exact"
    polarization: Annotated[
        Literal["none", "mm"],
        Option(
            "mm: the region responds to the MM charges with the kappa and alpha of its model, "
            "experimental; none: it does not"
        ),
    ] = "none"
    conserveInducedCharge: Annotated[
        Literal[True, False],
        Option("whether the charges that MM charges induce add up to nothing"),
    ] = True
    mmDamping: Annotated[
        Literal["none", "lj"],
        Option(
            "lj: to the response, MM charges are Gaussians as wide as the Lennard-Jones radius of "
            "their atom; none: they are points"
        ),
    ] = "none"

    def __post_init__(self) -> None:
        check_options(self)
        is_integer = self.charge is None or (_is_real(self.charge) and self.charge % 1 == 0)
        if not is_integer:
            raise InputError(f"charge: expected an integer number of e, got {self.charge!r}")
        if not _is_real(self.chargeTolerance) or not self.chargeTolerance > 0.0:
            raise InputError(
                f"chargeTolerance: expected a charge above 0 e, got {self.chargeTolerance!r}"
            )
        responding = {"conserveInducedCharge": True, "mmDamping": "none"}
        for name, default in responding.items():
            if self.polarization == "none" and getattr(self, name) != default:
                raise InputError(f"{name}: this option is for polarization='mm'")

    def total_charge(self, classical: float) -> int:
        """Charge of the region [e], whose MM charges add up to `classical` [e].

        Raises:
            InputError: it is not 0, and that was not allowed.
        """
        total = round(classical) if self.charge is None else int(self.charge)
        if total != 0 and not self.allowNetCharge:
            raise InputError(
                f"embedding='electrostatic': expected a neutral ML region, got {total:+d} e (the "
                f"MM charges add up to {classical:+.3f} e): models trained on neutral molecules "
                "are unreliable for charged regions. If the region is neutral once its cut bonds "
                "are capped, charge=0; if the model was trained on ions, allowNetCharge=True"
            )
        return total

    def check(self, options: ForceOptions) -> None:
        """Refuse options of the model that cannot be combined with these.

        Raises:
            InputError: names the option.
        """
        if options.field is not None:
            raise InputError(
                "electricField: expected none with embedding='electrostatic', in which MM charges "
                "act on the region; leave it out, or use embedding='mechanical'"
            )
        if self.mlImages == "exact" and (options.ewald == "mesh" or options.lesCutoff == "smooth"):
            raise InputError(
                "ewald='mesh' and lesCutoff='smooth' are for the periodic sum of the model, which "
                "mlImages='exact' does without: leave them out, or use mlImages='native'"
            )


class ElectrostaticEmbedding:
    """Mechanical embedding with the latent charges of the region in place of its MM charges.

    The Coulomb interactions of the region's MM charges with all others are taken out, and those of
    its latent charges are part of the force of the model.
    """

    options_class: ClassVar[type[EmbeddingOptions] | None] = ElectrostaticOptions

    def __init__(self, request: MixedRequest, options: ElectrostaticOptions) -> None:
        check_single_charge(request.artifact, "embedding='electrostatic'")
        if options.polarization == "mm":
            _check_response(request.artifact)
        models = present.models_in(request.system)
        if charged := [model for model in models if "charges" in model.compute.settings]:
            # Neither region would feel the latent charges of the other.
            raise InputError(
                "embedding='electrostatic': expected one region among MM charges, got a System "
                f"that has one already ({len(charged[0].atoms)} atoms of the force "
                f"{charged[0].name!r}), with which this one would not interact; give the atoms of "
                "both in one call, or embed all but one of them mechanically"
            )
        known = conditions_of(request.artifact.metadata["hyper"])
        self._takes_charge = any(condition.name == "total_charge" for condition in known)
        if self._takes_charge:  # so it was trained on ions
            options = dataclasses.replace(options, allowNetCharge=True)
        self._request = request
        self._options = options
        self._field = read_field(request.system, request.region, request.links, options)

    def change_nonbonded(self, mixed: openmm.System, sums: Sums) -> None:
        particles, taken = self._request.region.particles, self._field.taken
        if self._request.interpolate:
            nonbonded.fade_charges(mixed, particles, taken, sums)
        else:
            nonbonded.remove_charges(mixed, particles, taken)
            nonbonded.remove(mixed, particles, sums)

    def add_model(
        self, mixed: openmm.System, topology: app.Topology, link_atoms: list[int]
    ) -> None:
        request = self._request
        backend, reason = request.options.backend, "embedding='electrostatic' needs a PythonForce"
        backends.choose(backend, device=None, is_placeholder=False, needs_python=reason)
        force: openmm.Force = self._python_force(mixed.getNumParticles())
        if request.interpolate:
            force = scaled(force, knows_slope=False)
        install(force, mixed, request.region.plain, request.options.forceGroup)

    def _python_force(self, num_particles: int) -> openmm.PythonForce:
        """The force of the model, whose particles are all those of the System."""
        request, field, artifact = self._request, self._field, self._request.artifact
        if artifact.metadata.get("charge_sign") is None:
            raise InputError(
                f"embedding='electrostatic': {artifact.path} does not state the sign of its latent "
                "charges (charge_sign), without which MM charges would attract what they should "
                "repel; use embedding='mechanical'"
            )
        charge = float(field.total) if self._takes_charge else None
        plain = request.region.plain
        places = {atom: i for i, atom in enumerate(plain.particles)}
        everything = tuple(range(plain.num_particles))
        return pythonforce.build(
            artifact,
            dataclasses.replace(plain, particles=everything, num_particles=num_particles),
            dataclasses.replace(request.options, charge=charge),
            EmbeddedCompute,
            numbers=list(plain.numbers) + [1] * len(request.links),
            particles=None,
            links=[tuple(link) for link in request.links],
            interpolate=request.interpolate,
            atoms=list(plain.particles),
            bonds=[(places[first], places[second]) for first, second in plain.bonds],
            charges=zlib.compress(field.charges.astype("<f8").tobytes(), 9),
            on_bonds=[(*charge,) for charge in field.on_bonds],
            scaled_pairs=[tuple(pair) for pair in scaled_pairs(field, plain.particles)],
            method=field.method,
            cutoff=field.cutoff,
            dielectric=field.dielectric,
            charge=field.total,
            charge_tolerance=float(self._options.chargeTolerance),
            ml_images=self._options.mlImages,
            **self._response_settings(),
        )

    def _response_settings(self) -> dict[str, Any]:
        """Settings of a region that responds, which no other has."""
        if self._options.polarization == "none":
            return {}
        radii = self._field.radii
        if self._options.mmDamping == "lj" and not radii.any():
            raise InputError(
                "mmDamping='lj': expected Lennard-Jones parameters in the NonbondedForce that has "
                "the charges, got none; use mmDamping='none'"
            )
        return {
            "polarization": self._options.polarization,
            "conserves": self._options.conserveInducedCharge,
            "radii": zlib.compress(radii.astype("<f8").tobytes(), 9),
        }


class EmbeddedCompute(MixedCompute):
    """A model on ML and link atoms that feels the charges of all other particles.

    The particles of the force are those of the System. The model sees the ML atoms, in one piece,
    link atoms, the particles that have an MM charge, and charges on bonds.

    MM charges are part of the settings, compressed: a box of water repeats itself, so that they
    take about a kilobyte of a saved System. Charges that change in the NonbondedForce later do not
    change here.

    Settings are those of `MixedCompute`; ``atoms`` (particles), ``bonds`` (pairs of places in
    these), ``charges`` of all particles, ``on_bonds`` (the fields of `BondCharge`),
    ``charge_tolerance`` [e], and the fields of
    `openmm_les.electrostatics.embedding.Surroundings`; where the region responds to MM charges,
    ``radii`` of all particles as these see them [A].
    """

    kind = "embedded"

    def __init__(self, path: str, sha256: str, settings: dict[str, Any]) -> None:
        super().__init__(path, sha256, settings)
        self._atoms: list[int] = settings["atoms"]
        charges = np.frombuffer(zlib.decompress(settings["charges"]), dtype="<f8")
        self._charges = charges.astype(np.float64)
        self._bond_charges = [BondCharge(*charge) for charge in settings["on_bonds"]]
        self._sign = 1.0
        self._has_to_check = True  # every result, whose charges depend on the structure
        self._off_charge = MAX_EVALUATIONS_OFF_CHARGE  # none is allowed at the start

    def geometry(self) -> RegionGeometry:
        return RegionGeometry(
            len(self._charges),
            self._atoms,
            self._links,
            periodic=self._settings["periodic"],
            charged=np.flatnonzero(self._charges).tolist(),
            bond_charges=self._bond_charges,
            bonds=self._settings["bonds"],
        )

    def surroundings(self, artifact: Artifact) -> Surroundings:
        settings = self._settings
        sign, les = float(artifact.metadata["charge_sign"]), artifact.metadata["les"]
        self._sign = charge_factor(sign, float(les["prefactor"]))
        particles = np.flatnonzero(self._charges)
        charged = self._charges[particles]
        response: dict[str, Any] = {}
        if "polarization" in settings:
            radii = np.frombuffer(zlib.decompress(settings["radii"]), dtype="<f8")
            on_bonds = [each.second for each in self._bond_charges]
            response = {
                "polarization": settings["polarization"],
                "conserves": settings["conserves"],
                "mm_widths": radii[[*particles, *on_bonds]].tolist() if radii.any() else (),
            }
        places = {atom: i for i, atom in enumerate(self._atoms)}
        return Surroundings(
            charges=[*charged.tolist(), *(each.charge for each in self._bond_charges)],
            method=settings["method"],
            total=settings["charge"],
            sign=self._sign,
            cutoff=settings["cutoff"],
            dielectric=settings["dielectric"],
            scaled_pairs=[ScaledPair(*pair) for pair in settings["scaled_pairs"]],
            hosts=[places[link.ml_atom] for link in self._links],
            images=settings["ml_images"],
            tolerance=min(settings["options"]["ewaldTolerance"], 1e-4),
            **response,
        )

    def _name(self, atom: int) -> str:
        if atom < len(self._atoms):
            return LESCompute._name(self, self._atoms[atom])
        return super()._name(atom)

    def _check(self, result: Evaluation) -> None:
        """Raise a `SimulationError` if the charges do not suit the region."""
        charges = result.charges
        if result.moments is not None:
            charges = result.moments.charges
            self._check_kappa(result.moments.kappa)
        total = self._sign * float(charges.sum())
        expected, allowed = self._settings["charge"], self._settings["charge_tolerance"]
        if abs(total - expected) <= allowed:
            self._off_charge = 0
            return
        self._off_charge += 1
        if self._off_charge >= MAX_EVALUATIONS_OFF_CHARGE:
            enough = math.ceil(10.0 * (abs(total - expected) + 0.05)) / 10.0
            raise SimulationError.with_remedy(
                "embedding='electrostatic': the latent charges of the ML region add up to "
                f"{total:+.3f} e, expected {expected:+d} e within {allowed:g} e (chargeTolerance): "
                "the model does not describe this region well, or its charge is wrong. To go on, "
                "with the difference spread evenly over the atoms of the region, give "
                f"chargeTolerance={enough}; another region, another "
                "charge or embedding='mechanical' does without"
            )

    def _check_kappa(self, kappa: FloatArray | None) -> None:
        """Refuse charge responses that are negative, but for a few small ones."""
        if kappa is None or not self._settings.get("conserves", False):
            return
        of_atoms = kappa[: len(self._atoms)]
        total, size = float(of_atoms.sum()), float(np.abs(of_atoms).sum())
        if total < 0.5 * size:
            raise SimulationError.with_remedy(
                "polarization='mm': expected charge responses kappa above 0, got "
                f"{of_atoms.min():.3g} to {of_atoms.max():.3g} e/V, for which the charges that MM "
                "charges induce have no energy minimum: use polarization='none', or a model that "
                "was trained with a positive kappa"
            )


def _check_response(artifact: Artifact) -> None:
    """Refuse a model that cannot respond."""
    layout = artifact.layout
    if layout is None or (layout.kappa < 0 and layout.alpha < 0):
        raise InputError(
            "polarization='mm': expected a model with a response of its charges or dipoles (kappa "
            f"or alpha), got {artifact.path}, which has neither; use polarization='none'"
        )


def scaled_pairs(field: MMField, atoms: Sequence[int]) -> list[ScaledPair]:
    """Pairs of ML atoms and MM charges that interact in part, by their places.

    A charge on a bond is what M1 gave to M2, and interacts like the rest of the charge of M2.
    """
    places = {atom: i for i, atom in enumerate(atoms)}
    columns = {int(particle): [j] for j, particle in enumerate(np.flatnonzero(field.charges))}
    for j, charge in enumerate(field.on_bonds, start=len(columns)):
        columns.setdefault(charge.second, []).append(j)
    return [
        ScaledPair(places[atom], j, factor)
        for (atom, particle), factor in sorted(field.factors.items())
        for j in columns.get(particle, [])
    ]


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


EMBEDDING = ElectrostaticEmbedding
