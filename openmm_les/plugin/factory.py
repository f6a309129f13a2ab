"""The factory that openmm-ml finds through the entry point ``openmmml.potentials``.

`import openmmml` loads this module, so it imports neither torch nor openmm and cannot fail. It must
not import openmmml either, which would load an entry point that is not defined yet. The
implementation, which inherits from openmmml's class, is in `potential`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openmm_les.plugin.potential import LESPotentialImpl


class LESPotentialImplFactory:
    """Makes the implementation behind ``MLPotential('les', modelPath='model.les.pt')``.

    Names of `openmm_les.catalog`, as in ``MLPotential('maceles-off')``, need no `modelPath`: the
    published model is downloaded and exported when the potential is made, unless it is cached.

    Has the interface of `openmmml.mlpotential.MLPotentialImplFactory`. Where the entry point is not
    installed, register it by hand::

        MLPotential.registerImplFactory('les', LESPotentialImplFactory())
    """

    def createImpl(self, name: str, **args: Any) -> LESPotentialImpl:
        """Open the artifact and return the potential.

        Args:
            name: the name given to ``MLPotential``.
            **args: ``modelPath``, path of an exported model (``*.les.pt``) or name of a model, by
                default `name`. Options of a simulation are refused: they belong to
                ``createSystem``.

        Raises:
            InputError: `modelPath` is missing, or an unknown argument was given.
            ArtifactError: the file is missing, corrupt, too new, or not an openmm-les artifact.
            DownloadError: the published model cannot be had; says how to get it by hand.
        """
        from openmm_les import catalog
        from openmm_les.errors import InputError
        from openmm_les.names import read_arguments, spellings
        from openmm_les.plugin.forces.options import ForceOptions
        from openmm_les.plugin.potential import LESPotentialImpl

        options = [each for each in args if set(spellings(each)) & set(ForceOptions.accepted())]
        if options:
            raise InputError(
                f"MLPotential({name!r}): {', '.join(options)} is an option of the simulation, not "
                "of the model: give it to createSystem() or createMixedSystem()"
            )
        given = read_arguments(f"MLPotential({name!r})", args, ("modelPath",))
        modelPath: str | os.PathLike[str] | None = given.get("modelPath")
        if modelPath is None and name in catalog.names():
            modelPath = name
        if modelPath is None:
            raise InputError(
                f"MLPotential({name!r}): modelPath is missing: expected the path of an exported "
                f"model, as in MLPotential({name!r}, modelPath='model.les.pt'); make one with "
                "`openmm-les export MODEL -o model.les.pt`"
            )
        return LESPotentialImpl(name, modelPath)
