"""Which settings of a region of the model go together; imports no torch, no openmm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openmm_les.names import LAMBDA

if TYPE_CHECKING:
    from openmm_les.simulation.config import RunConfig

#: Settings of the force field around a region, of electrostatic embedding, and all of a region.
_OF_FORCE_FIELD = ("nonbonded_method", "nonbonded_cutoff", "constraints")
_OF_ELECTROSTATICS = ("charge_tolerance", "polarization", "conserve_induced_charge", "mm_damping")
_OF_REGION = (
    *("force_field", "system", *_OF_FORCE_FIELD),
    *("embedding", *_OF_ELECTROSTATICS, LAMBDA),
)


def check_region(config: RunConfig) -> None:
    """A region of the model has a force field around it, and no setting is without effect.

    Raises:
        ValueError: names the setting, and what to do.
    """

    def first(names: tuple[str, ...]) -> str | None:
        known = type(config).model_fields
        return next((n for n in names if getattr(config, n) != known[n].default), None)

    if config.ml_region is None:
        if name := first(_OF_REGION):
            raise ValueError(
                f"{name}: this goes with ml_region; without it the model describes everything"
            )
        return
    if (config.force_field is None) == (config.system is None):
        got = "neither" if config.system is None else "both"
        raise ValueError(
            f"force_field and system: expected one of them for what surrounds ml_region, got {got}"
        )
    if config.system and (name := first(_OF_FORCE_FIELD)):
        raise ValueError(f"{name}: this goes with force_field; a System has its own: leave it out")
    if config.embedding != "electrostatic" and (name := first(_OF_ELECTROSTATICS)):
        raise ValueError(f"{name}: this is for embedding: electrostatic")
