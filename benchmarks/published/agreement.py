"""How far we are from the original code, model by model."""

from typing import Any

import numpy as np

from openmm_les.errors import ModelFileError
from published.models import Published, energy_and_forces

#: What each model is of, in the order of the table.
MODELS = {
    "random_charge_rc4": "random charges",
    "charged_dimer_q1": "charged dimer",
    "lode_CP_q4_w0.2": "charged and polar molecule, four charges for each atom",
    "ag3_cluster_sr_charge_states": "Ag3 in two charge states",
    "carbon_chain": "carbon chains",
    "nacl_cluster": "NaCl clusters",
    "au2_mgo_al": "Au2 on MgO",
    "au_mgo_al_leswrapper_nu2": "Au2 on MgO, by the `les` package",
    "cace_les_dipep_r4_nl2_nu2": "dipeptides, CACE",
    "mace_les_dipep_r4_l0": "dipeptides, MACE",
    "electrolyte_rc4.5_mp1": "KF in water",
    "pt_kf_aq": "platinum and KF in water",
    "licl_gaf3_lr0": "LiCl and GaF3",
}


def agreement(published: Published, model: str) -> dict[str, Any]:
    """Largest differences over the structures of a model; why there are none, where it is so."""
    entry: dict[str, Any] = {"model": model, "system": MODELS[model]}
    references = published.references(model)
    try:
        calculator = published.calculator(model)
    except ModelFileError as error:
        return entry | {"refused": str(error).split(".pth: ")[-1].split(":")[0]}
    energies, forces = [], []
    for reference in references.values():
        energy, force = energy_and_forces(reference.atoms, calculator)
        energies.append(abs(energy - reference.energy) / len(reference.atoms))
        forces.append(np.abs(force - reference.forces).max())
    return entry | {
        "structures": len(references),
        "energy": float(max(energies)),
        "forces": float(max(forces)),
    }
