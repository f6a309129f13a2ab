"""The smallest synthetic model, and the mark of tests that need mace-torch."""

from __future__ import annotations

import importlib.util

import pytest

HAVE_MACE = importlib.util.find_spec("mace") is not None
TINY = {"max_ell": 1, "correlation": 1, "channels": 2, "radial_MLP": [4]}


def needs_mace(test):
    """Marks a test that builds or evaluates models with mace-torch."""
    skip = pytest.mark.skipif(not HAVE_MACE, reason="mace-torch is not installed")
    return pytest.mark.mace(skip(test))
