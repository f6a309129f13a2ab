"""Original model against artifact, on every export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from openmm_les.errors import VerificationError
from openmm_les_export.verification.probes import Probe, probe_structures
from openmm_les_export.verification.reference import ORIGINAL

__all__ = ["TOLERANCES", "Probe", "Tolerance", "probe_structures", "verify_forward"]

#: The forward of an artifact: positions [n, 3] [A], numbers [n], cell [3, 3] [A], periodic ->
#: energy [] [eV], forces [n, 3] [eV/A], charges [n] [e].
Forward = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, bool],
    tuple[torch.Tensor, torch.Tensor, torch.Tensor],
]


@dataclass(frozen=True)
class Tolerance:
    """Largest differences allowed between an exported model and its original."""

    energy_per_atom: float
    """[eV]"""
    force: float
    """Largest component [eV/A]."""
    charge: float
    """[e]"""


TOLERANCES = {
    "float32": Tolerance(energy_per_atom=1e-6, force=1e-4, charge=1e-5),
    "float64": Tolerance(energy_per_atom=1e-9, force=1e-8, charge=1e-9),
}


class Reference(Protocol):
    """The original model, such as `mace_reference.MACEReference`."""

    def evaluate(self, positions: Any, numbers: Any, cell: Any = None) -> Any:
        """See `reference.Evaluation`."""


def verify_forward(
    forward: Forward,
    reference: Reference,
    probes: Sequence[Probe],
    dtype: str,
    against: str = ORIGINAL,
) -> dict[str, Any]:
    """Compares an exported model with the original on probe structures.

    Args:
        forward: of the artifact.
        reference: the original model in float64.
        probes: see `probe_structures`.
        dtype: ``"float32"`` or ``"float64"``, the artifact's precision, which sets the tolerance.
        against: what the reference is, for the report.

    Returns:
        A report with JSON values only: status, tolerance, and the largest errors of each probe.

    Raises:
        VerificationError: names the probe, the quantity and both numbers.
    """
    tolerance = asdict(TOLERANCES[dtype])
    errors = {}
    for probe in probes:
        expected = reference.evaluate(probe.positions, probe.numbers, probe.cell)
        errors[probe.name] = _differences(forward, expected, probe)
        for quantity, limit in tolerance.items():
            found = errors[probe.name][quantity]
            if not found <= limit:  # also true for NaN
                raise _difference_error(probe, quantity, found, limit, dtype)
    return {
        "status": "verified",
        "against": against,
        "dtype": dtype,
        "tolerance": tolerance,
        "max_errors": errors,
        "versions": {"torch": torch.__version__},
    }


def _difference_error(
    probe: Probe, quantity: str, found: float, limit: float, dtype: str
) -> VerificationError:
    advice = "please report this model"
    if dtype == "float32":
        advice = f"if '--dtype float64' succeeds it is rounding, else {advice}"
    return VerificationError(
        f"verification: probe '{probe.name}' ({len(probe.numbers)} atoms): expected the "
        f"{quantity.replace('_', ' ')} of the original within {limit:.3g}, got a difference of "
        f"{found:.3g}; nothing was written; {advice}"
    )


def _differences(forward: Forward, expected: Any, probe: Probe) -> dict[str, float]:
    """Largest deviation of each quantity of `Tolerance`."""
    cell = np.zeros((3, 3)) if probe.cell is None else probe.cell
    energy, forces, charges = forward(
        torch.tensor(probe.positions, dtype=torch.float64),
        torch.tensor(probe.numbers, dtype=torch.int64),
        torch.tensor(cell, dtype=torch.float64),
        probe.cell is not None,
    )
    n = len(probe.numbers)
    found = {
        "force": forces.detach().cpu().double().numpy(),
        "charge": charges.detach().cpu().double().numpy(),
    }
    if found["force"].shape != (n, 3) or found["charge"].shape != (n,):
        raise VerificationError(
            f"verification: probe '{probe.name}': expected forces ({n}, 3) and charges ({n},), got "
            f"{found['force'].shape} and {found['charge'].shape}"
        )
    return {
        "energy_per_atom": abs(float(energy.detach()) - expected.energy) / n,
        "force": float(np.abs(found["force"] - expected.forces).max()),
        "charge": float(np.abs(found["charge"] - expected.charges).max()),
    }
