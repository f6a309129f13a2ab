"""Types of numpy arrays that many modules name."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

#: float64 of any shape; docstrings give the shape and the unit.
FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
