"""Options of an evaluation: what is accepted, and under which names."""

import numpy as np
import pytest
import torch

from openmm_les.electrostatics import EwaldOptions
from openmm_les.electrostatics.accuracy import RULES
from openmm_les.errors import InputError
from openmm_les.evaluation.engines.variant import Variant
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.names import options_of
from openmm_les.plugin.forces import ForceOptions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "half"}, "precision: expected 'single' or 'double', got 'half'"),
        ({"engine": "jit"}, "engine: expected 'auto' or 'torchscript' or 'compile', got 'jit'"),
        ({"variant": {"runner": "compile"}}, "variant: expected values for runner, few_kernels, "),
        (
            {"variant": Variant(), "engine": "compile"},
            "variant: expected none beside engine='compile'; leave out one of them",
        ),
        ({"maxNeighbors": 0}, "maxNeighbors: expected an integer of at least 1, got 0"),
        ({"maxNeighbors": True}, "maxNeighbors: expected an integer of at least 1, got True"),
        ({"maxNeighbors": 2.5}, r"maxNeighbors: expected an integer of at least 1, got 2\.5"),
        ({"ewald": "pme"}, "ewald: expected 'auto' or 'direct' or 'mesh', got 'pme'"),
        ({"ewald": None}, "ewald: expected 'auto' or 'direct' or 'mesh', got None"),
        ({"lesCutoff": "soft"}, "lesCutoff: expected 'hard' or 'smooth', got 'soft'"),
        ({"ewaldTolerance": 1e-9}, "ewaldTolerance: expected a number from 1e-07 to 0.01"),
        ({"ewaldTolerance": float("nan")}, "got nan; for more accuracy use ewald='direct'"),
        ({"ewaldTolerance": "low"}, "ewaldTolerance: expected a number"),
        ({"cudaGraphs": 1}, "cudaGraphs: expected 'auto' or True or False, got 1"),
        ({"charge": True}, "charge: expected a number from -10000 to 10000, got True"),
        ({"spin": "2"}, "spin: expected a number from -10000 to 10000, got '2'"),
        ({"features": [1.0]}, r"features: expected numbers by name, as in .*, got \[1.0\]"),
        ({"features": {"a": "b"}}, "expected a number or a list of numbers, got"),
        (
            {"charge": 1, "features": {"total_charge": 1}},
            r"charge: it is given a second time, as features\['total_charge'\]",
        ),
    ],
)
def test_values_that_are_not_accepted(given, message):
    for kind in (EvaluationOptions, ForceOptions):
        with pytest.raises(InputError, match=message):
            kind(**given)


def test_values_become_those_of_python():
    """So that they can be pickled where numpy and torch are missing."""
    options = EvaluationOptions(
        device=torch.device("cpu"),
        maxNeighbors=np.int64(7),
        ewaldTolerance=np.float64(1e-4),
        charge=np.int64(-1),
        spin=np.float32(2),
        features={"a": np.float32(0.5), "b": np.array([1, 2])},
    )
    assert (options.charge, options.spin) == (-1.0, 2.0)
    assert options.features == {"a": 0.5, "b": [1.0, 2.0]}
    features, _ = vars(options).pop("features"), vars(options).pop("variant")
    assert {type(each) for each in (features["a"], *features["b"])} == {float}
    assert (options.device, options.maxNeighbors, options.ewaldTolerance) == ("cpu", 7, 1e-4)
    assert {type(value) for value in vars(options).values()} == {str, int, float}
    assert options.ewald_options == EwaldOptions("auto", 1e-4, "hard")
    assert options_of(EvaluationOptions)["ewaldTolerance"].option.limits[0] == RULES[-1].tolerance


def test_options_change_under_either_spelling():
    options = EvaluationOptions().changed("f", {"max_neighbors": 8, "lesCutoff": "smooth"})
    assert options == EvaluationOptions(maxNeighbors=8, lesCutoff="smooth")
    with pytest.raises(InputError, match=r"f: unknown argument dtype; did you mean precision\?"):
        options.changed("f", {"dtype": "float64"})


def test_descriptions_are_in_the_docstring():
    for kind in (EvaluationOptions, ForceOptions):
        for name, field in options_of(kind).items():
            assert f"    {name}: {field.option.description}" in kind.__doc__
