"""Numbers of numpy in what torch.save writes."""

import numpy as np
import pytest
import torch

from openmm_les.files import pickles
from openmm_les.files.archives import Archive
from openmm_les.files.reading import Damage


def stored(path, value) -> Archive:
    torch.save(value, path)
    return Archive(path.read_bytes())


def test_numbers_become_those_of_python(tmp_path):
    numbers = [np.int64(-3), np.uint8(200), np.float32(0.1), np.float64(0.1), np.bool_(True)]
    numbers.append(np.array([7], dtype=">i4")[0])
    found = pickles.load(stored(tmp_path / "x.pt", {"numbers": numbers}))["numbers"]
    assert found == [number.item() for number in numbers]
    assert [type(number) for number in found] == [int, int, float, float, bool, int]


@pytest.mark.parametrize("number", [np.complex128(1j), np.datetime64(3, "s"), np.void(b"ab")])
def test_other_types_are_refused(tmp_path, number):
    with pytest.raises(Damage, match=r"a number of numpy's type"):
        pickles.load(stored(tmp_path / "x.pt", number))
