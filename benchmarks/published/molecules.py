"""Dipole moments of dipeptides; no dipole was in the training data."""

import numpy as np

from openmm_les.analysis.validation import read_frames, validate
from published.findings import Findings, Row
from published.models import Published

DEBYE = 0.20819434  # e A
MODELS = {"CACE": "cace_les_dipep_r4_nl2_nu2", "MACE": "mace_les_dipep_r4_l0"}


def dipoles(published: Published, code: str) -> Findings:
    artifact = published.calculator(MODELS[code]).artifact
    frames = read_frames(published.data / "spice_dipeptides_val.xyz")
    validation = validate(artifact, frames)
    dipole = next(each for each in validation.statistics() if each.quantity == "dipole")
    reference, model = validation.pairs("dipole")
    size = float(np.sqrt(np.mean(reference**2))) / DEBYE
    rows = [
        Row("RMSE of a component", "D", dipole.rmse / DEBYE),
        Row("RMS of a component by DFT", "D", None, true=size),
        Row("slope", "", dipole.slope, true=1.0),
        Row("coefficient of determination", "", dipole.r2, true=1.0),
    ]
    return Findings(rows, {"reference": reference.tolist(), "model": model.tolist()})
