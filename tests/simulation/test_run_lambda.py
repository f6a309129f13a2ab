"""`openmm-les run` between the force field and ML/MM."""

import shutil

import numpy as np
import pytest
from support.mixed import peptide_in_water
from support.runs import (
    IN_WATER,
    assert_same_run,
    config,
    run_with_copies,
    write,
)

from openmm_les import InputError
from openmm_les import simulation as md
from openmm_les.simulation.end_energies import FORCE_FIELD_ENERGY, MIXED_ENERGY
from openmm_les.simulation.summary import read_log

SHORT = {"steps": 40, "equilibration_steps": 0, "minimise_iterations": 5}


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Settings of a run of the peptide in water."""
    path = write(tmp_path_factory.mktemp("box") / "peptide.pdb", peptide_in_water("tip3p", 1.6))
    return IN_WATER | SHORT | {"structure": path, "lambda_interpolate": 0.25}


@pytest.fixture(scope="module")
def complete(tmp_path_factory, fields):
    folder = tmp_path_factory.mktemp("lambda")
    return run_with_copies(folder, config(folder, **fields))


def test_the_ends_give_the_energy_of_the_run(complete):
    ends = read_log(complete / "run" / "interpolation.csv")
    log = read_log(complete / "run" / "log.csv")
    assert ends["Step"] == log["Step"] == [20.0, 40.0]
    between = 0.75 * np.array(ends[FORCE_FIELD_ENERGY]) + 0.25 * np.array(ends[MIXED_ENERGY])
    np.testing.assert_allclose(between, log["Potential Energy (kJ/mole)"], atol=1e-2)


def test_a_resumed_run_is_the_same(complete, tmp_path, fields):
    shutil.copytree(complete / "production-20", tmp_path / "run")
    md.run(config(tmp_path, **fields), resume=True)
    assert_same_run(tmp_path / "run", complete / "run")
    expected = (complete / "run" / "interpolation.csv").read_bytes()
    assert (tmp_path / "run" / "interpolation.csv").read_bytes() == expected


def test_lambda_is_refused_where_nothing_is_interpolated(tmp_path):
    with pytest.raises(InputError, match="lambda_interpolate: this goes with ml_region"):
        config(tmp_path, lambda_interpolate=0.5)
    with pytest.raises(InputError, match=r"lambda_interpolate: expected .* at most 1"):
        config(tmp_path, **IN_WATER, lambda_interpolate=1.5)
