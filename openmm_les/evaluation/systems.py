"""Models for one structure after another, whose atoms differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from openmm_les.artifact import Artifact
from openmm_les.evaluation.options import EvaluationOptions
from openmm_les.evaluation.system_model import SystemModel


@dataclass
class SystemModels:
    """Makes a `SystemModel` for each structure; successive ones of the same atoms share it."""

    artifact: Artifact
    options: EvaluationOptions
    electric_field: bool = False
    _last: SystemModel | None = field(default=None, init=False)
    _wanted: Any = field(default=None, init=False)

    def model_for(
        self,
        numbers: Iterable[int],
        positions: npt.ArrayLike,
        cell: npt.ArrayLike | None,
        conditions: Mapping[str, Any] | None = None,
    ) -> SystemModel:
        """The model for a structure, whose cell is None if it is not periodic.

        `conditions` by name are those of the structure; what the options state goes before them.
        """
        options = self.options
        if conditions:
            options = options.under({**conditions, **options.conditions})
        wanted = [int(z) for z in numbers], cell is not None, options
        if self._last is None or self._wanted != wanted:
            self._last = None  # frees its memory before the next one is made
            self._wanted = wanted
            self._last = SystemModel(
                self.artifact,
                wanted[0],
                options,
                periodic=wanted[1],
                cell=cell,
                positions=positions,
                electric_field=self.electric_field,
            )
        return self._last
