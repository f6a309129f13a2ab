"""The original model against everything that computes an exported one.

Simulations run a `SystemModel` with folded weights, tabulated radial functions (single precision)
and one of two Ewald sums, other programs the portable module. All of these are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from openmm_les.artifact import Artifact
from openmm_les.electrostatics.cell import self_energy_coefficient
from openmm_les.electrostatics.multipoles import LatentLayout
from openmm_les.errors import VerificationError
from openmm_les.evaluation.engines.arithmetic import as_written
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.results import latent_moments
from openmm_les.evaluation.systems import SystemModels
from openmm_les.networks.conditions import neutral_conditions
from openmm_les_export.verification.probes import Probe
from openmm_les_export.verification.reference import AutogradReference, Evaluation


@dataclass(frozen=True)
class Tolerance:
    """Largest differences from the original.

    Rounding grows with the numbers: the values hold for energies up to 4 eV/atom, forces up to
    5 eV/A and charges up to 1 e, and grow in proportion beyond.
    """

    energy_per_atom: float  #: [eV]
    force: float  #: largest component [eV/A]
    charge: float  #: [e]; of moments and their response in units of e, A and V.


TOLERANCES = {
    "float32": Tolerance(energy_per_atom=1e-6, force=1e-4, charge=1e-5),
    "float64": Tolerance(energy_per_atom=1e-9, force=1e-8, charge=1e-9),
}
#: By the name of the path. Direct sums are those of torch code, which runs everywhere, and meshes
#: those of the kernels that this machine has.
_SYSTEM_PATHS: dict[str, tuple[Tolerance, dict[str, Any]]] = {
    "single direct": (
        TOLERANCES["float32"],
        {"precision": "single", "ewald": "direct", "engine": "torchscript"},
    ),
    # Its default tolerance, 1e-5 of the LES forces, is less than that of float32.
    "single mesh": (TOLERANCES["float32"], {"precision": "single", "ewald": "mesh"}),
    "double direct": (
        TOLERANCES["float64"],
        {"precision": "double", "ewald": "direct", "engine": "torchscript"},
    ),
    # The finest mesh; LES forces are up to some eV/A.
    "double mesh": (
        Tolerance(energy_per_atom=1e-8, force=1e-6, charge=1e-9),
        {"precision": "double", "ewald": "mesh", "ewaldTolerance": 1e-7},
    ),
}

_MAGNITUDES = Tolerance(energy_per_atom=4.0, force=5.0, charge=1.0)
_UNITS = {"energy_per_atom": "eV", "force": "eV/A", "charge": "e"}


@dataclass(frozen=True)
class EvaluationPath:
    name: str  #: such as ``"single mesh"``
    tolerance: Tolerance
    evaluate: Callable[[Probe], Evaluation]
    periodic_only: bool = False
    neutral_only: bool = False  #: whether it has one value for each condition of the model

    def largest_errors(
        self, expected: Sequence[tuple[Probe, Evaluation]], les: Mapping[str, float | bool]
    ) -> dict[str, float]:
        """The largest difference of each quantity; a `VerificationError` beyond its tolerance."""
        largest = dict.fromkeys(_UNITS, 0.0)
        for probe, original in expected:
            if self.periodic_only and probe.cell is None:
                continue
            if self.neutral_only and probe.conditions:
                continue
            differences = _differences(self.evaluate(probe), original)
            magnitudes = _magnitudes(original, les)
            for quantity, difference in differences.items():
                limit = getattr(self.tolerance, quantity)
                limit *= max(1.0, magnitudes[quantity] / getattr(_MAGNITUDES, quantity))
                if not difference <= limit:  # also true for NaN
                    raise VerificationError(
                        f"{quantity.replace('_', ' ')} of the structure '{probe.name}' differs by "
                        f"{difference:.3g} {_UNITS[quantity]}, expected at most {limit:.3g}"
                    )
                largest[quantity] = max(largest[quantity], difference)
        return largest


def _differences(found: Evaluation, original: Evaluation) -> dict[str, float]:
    for name in ("forces", "charges"):
        shapes = [np.shape(getattr(result, name)) for result in (found, original)]
        if shapes[0] != shapes[1]:
            raise VerificationError(f"expected {name} of shape {shapes[1]}, got {shapes[0]}")
    return {
        "energy_per_atom": abs(found.energy - original.energy) / len(original.charges),
        "force": float(np.abs(found.forces - original.forces).max()),
        "charge": float(np.abs(_latents(found) - _latents(original)).max()),
    }


def _latents(result: Evaluation) -> npt.NDArray[np.float64]:
    """Charges and every moment, of which each model has its own, shape (n, numbers)."""
    n = len(result.forces)
    moments = () if result.moments is None else vars(result.moments).values()
    found = [result.charges, *(values for values in moments if values is not None)]
    return np.concatenate([values.reshape(n, -1) for values in found], axis=1)


def _magnitudes(original: Evaluation, les: Mapping[str, float | bool]) -> dict[str, float]:
    """Of the numbers that rounding is relative to; energies of charges may cancel others.

    Rounded distances change energies by forces times distances, so that an energy counts as much as
    the force that goes with it in `_MAGNITUDES`.
    """
    squares = float((original.charges**2).sum()) / len(original.charges)
    coefficient = self_energy_coefficient(float(les["prefactor"]), float(les["sigma"]))
    force = float(np.abs(original.forces).max())
    distance = _MAGNITUDES.energy_per_atom / _MAGNITUDES.force
    return {
        "energy_per_atom": max(coefficient * squares, force * distance),
        "force": force,
        "charge": float(np.abs(_latents(original)).max()),
    }


def portable_path(
    module: torch.jit.ScriptModule, dtype: str, layout: LatentLayout | None
) -> EvaluationPath:
    """The TorchScript module inside an artifact, which other programs load."""

    run = module if layout is None else module.evaluate

    def evaluate(probe: Probe) -> Evaluation:
        cell = np.zeros((3, 3)) if probe.cell is None else probe.cell
        inputs = [torch.tensor(array) for array in (probe.positions, probe.numbers, cell)]
        with as_written():  # also, compiling would take longer than it saves
            energy, *others = run(*inputs, probe.cell is not None)
        forces, latents = (other.detach().cpu().double().numpy() for other in others)
        moments = None if layout is None else latent_moments(latents, layout)
        charges = latents if moments is None else moments.total_charges
        return Evaluation(float(energy.detach()), forces, charges, moments)

    return EvaluationPath(f"portable {dtype}", TOLERANCES[dtype], evaluate, neutral_only=True)


def system_paths(artifact: Artifact) -> list[EvaluationPath]:
    """What simulations run: `SystemModel` in both precisions, with both Ewald sums."""

    neutral = neutral_conditions(artifact.canonical.hyper)

    def path(name: str, tolerance: Tolerance, options: dict[str, Any]) -> EvaluationPath:
        models = SystemModels(artifact, EvaluationOptions(**options))

        def evaluate(probe: Probe) -> Evaluation:
            conditions = {**neutral, **probe.conditions}
            model = models.model_for(probe.numbers, probe.positions, probe.cell, conditions)
            found = model.evaluate(probe.positions, probe.cell)
            energy = found.energy + model.reference_energy
            return Evaluation(energy, found.forces, found.charges, found.moments)

        return EvaluationPath(name, tolerance, evaluate, options["ewald"] == "mesh")

    return [path(name, *settings) for name, settings in _SYSTEM_PATHS.items()]


def verify(
    artifact: Artifact,
    module: torch.jit.ScriptModule,
    reference: AutogradReference,
    probes: Sequence[Probe],
) -> dict[str, Any]:
    """Compares a model with the original on structures; by path, tolerance and largest errors."""
    # In reverse, so that boxes of the same atoms share a model, which has room for the larger one.
    neutral = neutral_conditions(artifact.canonical.hyper)
    expected = [
        (
            probe,
            reference.under({**neutral, **probe.conditions}).evaluate(
                probe.positions, probe.numbers, probe.cell
            ),
        )
        for probe in reversed(probes)
    ]
    portable = portable_path(module, artifact.metadata["dtype"], artifact.layout)
    paths = [portable, *system_paths(artifact)]
    errors = {}
    for path in paths:
        try:
            errors[path.name] = path.largest_errors(expected, artifact.canonical.les)
        except VerificationError as error:
            is_rounding = "if '--dtype float64' succeeds it is rounding, else "
            advice = is_rounding if path.name == "portable float32" else ""
            raise VerificationError(
                f"verification: {path.name}: {error}; nothing was written; {advice}please report "
                "this model"
            ) from error
    return {
        "structures": [probe.name for probe in probes],
        "tolerance": {path.name: asdict(path.tolerance) for path in paths},
        "max_errors": errors,
    }
