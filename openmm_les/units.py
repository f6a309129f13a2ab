"""Every unit conversion between OpenMM (nm, kJ/mol) and the models (Angstrom, eV).

From `openmm.unit`, but for the permittivity of the vacuum and Planck's constant, which it lacks.
"""

import math
from typing import NamedTuple

from openmm import unit

_EV = unit.elementary_charge * unit.volt * unit.AVOGADRO_CONSTANT_NA

#: Lengths: multiply nanometers by this to get Angstrom.
ANGSTROM_PER_NM: float = (1.0 * unit.nanometer).value_in_unit(unit.angstrom)
#: Energies: multiply eV by this to get kJ/mol.
KJ_PER_MOL_PER_EV: float = (1.0 * _EV).value_in_unit(unit.kilojoule_per_mole)
#: Forces: multiply eV/A by this to get kJ/mol/nm.
FORCE_PER_EV_PER_ANGSTROM: float = KJ_PER_MOL_PER_EV * ANGSTROM_PER_NM
#: Electric fields: multiply V/nm by this to get V/A, which is eV/(e A).
VOLT_PER_ANGSTROM_PER_VOLT_PER_NM: float = (1.0 * unit.volt / unit.nanometer).value_in_unit(
    unit.volt / unit.angstrom
)


class Units(NamedTuple):
    """Units of positions and forces that somebody hands over and gets back."""

    length: float  #: Angstrom in one.
    force: float  #: how many are one eV/A.


ANGSTROM_AND_EV = Units(1.0, 1.0)
#: Positions in nm, forces in kJ/mol/nm.
OPENMM_UNITS = Units(ANGSTROM_PER_NM, FORCE_PER_EV_PER_ANGSTROM)

_PERMITTIVITY = 8.8541878128e-12 * unit.farad / unit.meter  # CODATA 2018, as in OpenMM's kernels

#: Energy of two elementary charges 1 Angstrom apart, 1 / (4 pi eps0) [eV A / e^2].
COULOMB_CONSTANT: float = (
    unit.elementary_charge**2 * unit.AVOGADRO_CONSTANT_NA / (4.0 * math.pi * _PERMITTIVITY)
).value_in_unit(unit.kilojoule_per_mole * unit.angstrom) / KJ_PER_MOL_PER_EV
#: Molar gas constant [kJ/mol/K].
GAS_CONSTANT: float = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
#: Boltzmann's constant [eV/K].
BOLTZMANN: float = GAS_CONSTANT / KJ_PER_MOL_PER_EV
#: Energies of motion: multiply u A^2/ps^2 by this to get eV.
MASS_ENERGY: float = (1.0 * unit.dalton * (unit.angstrom / unit.picosecond) ** 2).value_in_unit(
    unit.kilojoule_per_mole
) / KJ_PER_MOL_PER_EV
#: Speed of light [cm/ps]; frequencies [1/ps] divided by this are wavenumbers [1/cm].
LIGHT_SPEED: float = unit.SPEED_OF_LIGHT_C.value_in_unit(unit.centimeter / unit.picosecond)
#: Planck's constant [eV ps].
PLANCK: float = (
    6.62607015e-34 * unit.joule * unit.second * unit.AVOGADRO_CONSTANT_NA  # exact, in the SI
).value_in_unit(unit.kilojoule_per_mole * unit.picosecond) / KJ_PER_MOL_PER_EV

# Other units of reference data.

#: Energies: multiply eV by this to get kcal/mol.
KCAL_PER_MOL_PER_EV: float = (1.0 * _EV).value_in_unit(unit.kilocalorie_per_mole)
#: Energies: multiply eV by this to get Hartree.
HARTREE_PER_EV: float = (1.0 * _EV / unit.AVOGADRO_CONSTANT_NA).value_in_unit(unit.hartree)
#: Lengths: multiply Angstrom by this to get Bohr.
BOHR_PER_ANGSTROM: float = (1.0 * unit.angstrom).value_in_unit(unit.bohr)
#: Dipoles: multiply e A by this to get Debye.
DEBYE_PER_E_ANGSTROM: float = (1.0 * unit.elementary_charge * unit.angstrom).value_in_unit(
    unit.debye
)
#: Stresses: multiply eV/A^3 by this to get GPa.
GPA_PER_EV_PER_CUBIC_ANGSTROM: float = 1e-4 * (
    1.0 * _EV / unit.AVOGADRO_CONSTANT_NA / unit.angstrom**3
).value_in_unit(unit.bar)
