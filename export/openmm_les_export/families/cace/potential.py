"""Where in a CACE model the energy is made: the networks of energy and charges, and the sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from openmm_les.errors import ModelFileError, UnsupportedModelError
from openmm_les_export.checkpoints.records import Record, describe, unsupported
from openmm_les_export.families.cace.accepted import LOOK_UP, SUM
from openmm_les_export.families.cace.ewald import LES, ewald_parameters
from openmm_les_export.families.les_parameters import les_parameters

#: Attributes with the names of energies that output modules make.
_ENERGY_KEYS = {
    "Atomwise": "output_key",
    "EwaldPotential": "output_key",
    "FeatureAdd": "output_key",
    "LesWrapper": "energy_key",
}
#: Those whose energy is that of charges.
_SUMS = ("EwaldPotential", "LesWrapper")
_FEATURES = ("node_feats", ["node_feats"])


@dataclass(frozen=True)
class Potential:
    """The parts of a model: E = sum of scale * energy + sum over charges."""

    representation: Record
    energy: Record
    energy_scale: float
    charge: Record
    les: LES  #: of charges that are those of the network times its scale
    #: Of potentials in files that are older than weights, which their training ignored.
    unused_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Term:
    """An energy that is part of the total, with its weight and the potential that makes it."""

    weight: float
    record: Record
    potential: Record
    unused_weight: float | None = None


def read_potential(model: Record) -> Potential:
    """Finds the parts, from the energy that is returned."""
    if not any(record.kind in _SUMS for record in model.walk()):
        raise ModelFileError(
            "model: a CACE model without LES: expected a LesWrapper or an EwaldPotential among its "
            "output modules, got none; openmm-les runs models with LES alone"
        )
    terms = list(_terms(model))
    energies = [term for term in terms if term.record.kind not in _SUMS]
    sums = [term for term in terms if term.record.kind in _SUMS]
    if len(energies) != 1 or len(sums) != 1:
        raise _several([term.record.path for term in terms])
    (energy,), (electrostatic,) = energies, sums
    representations = {id(term.potential.module("representation")) for term in terms}
    if len(representations) != 1:
        raise unsupported("models", "one representation of all potentials", len(representations))
    charge, les = _electrostatics(electrostatic)
    return Potential(
        energy.potential.module("representation"),
        energy.record,
        energy.weight,
        charge,
        les,
        tuple(term.unused_weight for term in terms if term.unused_weight is not None),
    )


def _terms(model: Record) -> Iterator[_Term]:
    if model.kind != "CombinePotential":
        (forces,) = _only(model, "Forces")
        for record in _addends(model, forces.value("energy_key"), forces.path_of("energy_key")):
            yield _Term(1.0, record, model)
        return
    potentials, keys = model.items("models"), model.value("potential_keys")
    if not isinstance(keys, list) or [type(k) for k in keys] != [dict] * len(potentials):
        raise unsupported(
            "potential_keys", f"those of {len(potentials)} potentials", describe(keys)
        )
    if not _is_sum(model.value("operation"), model):
        got = describe(model.value("operation"))
        raise unsupported("operation", "the sum of the potentials", got)
    made = [_energies(potential) for potential in potentials]
    pairs = list(zip(keys, made, strict=True))
    names = [name for name in keys[0] if all(_in(own.get(name), e) for own, e in pairs)]
    if len(names) != 1:
        raise unsupported("potential_keys", "one energy of each potential", describe(keys))
    for i, (potential, own) in enumerate(zip(potentials, keys, strict=True)):
        weight, key = _weight(own, f"potential_keys.{i}.weight"), own[names[0]]
        known = weight == 1.0 or "forward_features" in potential.module("representation").state
        if any(forces.value("energy_key") != key for forces in _kind(potential, "Forces")):
            raise unsupported(potential.path, f"forces of the energy {describe(key)}", "others")
        for record in _addends(potential, key, f"potential_keys.{i}.{names[0]}"):
            if known and record.kind in _SUMS and not weight > 0:
                expected = "a positive weight of the LES energy"
                raise unsupported(f"potential_keys.{i}.weight", expected, f"{weight:g}")
            if known:
                yield _Term(weight, record, potential)
            else:
                yield _Term(1.0, record, potential, unused_weight=weight)


def _is_sum(operation: Any, model: Record) -> bool:
    """Whether it is the method that pickle would look up in the model, or the function."""
    if isinstance(operation, Record) and operation.qualified_name == LOOK_UP:
        return len(operation.args) == 2 and operation.args[0] is model and operation.args[1] == SUM
    return bool(getattr(operation, "qualified_name", "") == f"cace.models.combined.{SUM}")


def _weight(keys: dict[str, Any], where: str) -> float:
    """Of a potential, 1 unless it is stated; a number, or its text."""
    stated = 1.0 if keys.get("weight") is None else keys["weight"]
    try:
        weight = math.nan if isinstance(stated, bool) else float(stated)
    except (TypeError, ValueError):
        weight = math.nan
    if not math.isfinite(weight):
        raise unsupported(where, "a number", describe(stated))
    return weight


def _kind(potential: Record, kind: str) -> list[Record]:
    return [record for record in potential.items("output_modules") if record.kind == kind]


def _only(potential: Record, kind: str) -> list[Record]:
    found = _kind(potential, kind)
    if len(found) != 1:
        raise unsupported(
            "output_modules", f"one {kind}", f"{len(found)}; this layout is not known"
        )
    return found


def _energies(potential: Record) -> dict[Any, Record]:
    """Output modules by the name of what they make that can be an energy."""
    found: dict[Any, Record] = {}
    for record in potential.items("output_modules"):
        attribute = _ENERGY_KEYS.get(record.kind)
        if attribute is None:
            continue
        if attribute not in record.state:  # LesWrapper had another name for it at first
            attribute = "output_key"
        key = record.value(attribute)
        if not isinstance(key, str) or key in found:
            raise unsupported(record.path_of(attribute), "a name of its own", describe(key))
        found[key] = record
    return found


def _in(key: Any, made: dict[Any, Record]) -> bool:
    return isinstance(key, str) and key in made


def _addends(potential: Record, key: Any, where: str) -> list[Record]:
    """The modules whose energies add up to one, except those that only add."""
    made = _energies(potential)
    if not _in(key, made):
        raise UnsupportedModelError(
            f"model: option {where}: expected the energy of an output module, one of "
            f"{describe(list(made))}, got {describe(key)}"
        )
    record = made[key]
    if record.kind != "FeatureAdd":
        return [record]
    keys = record.value("feature_keys")
    where = record.path_of("feature_keys")
    if not isinstance(keys, list) or not all(_in(k, made) and k != key for k in keys):
        raise _several(keys, where)
    return [addend for k in keys for addend in _addends(potential, k, where)]


def _several(got: Any, where: str = "energy") -> UnsupportedModelError:
    return UnsupportedModelError(
        f"model: option {where}: expected one energy of the network and that of LES, got "
        f"{describe(got)}"
    )


def _electrostatics(term: _Term) -> tuple[Record, LES]:
    """The network of the charges, and the sum over them."""
    if term.record.kind == "LesWrapper":
        _check_features(term.record)
        les, charge = term.record.module("les"), term.record.module("les.atomwise")
        scale = charge.number("output_scaling_factor") * math.sqrt(term.weight)
        parameters, origins = les_parameters(les), {}
        if term.weight != 1.0:  # the Born charges of the file are without it
            parameters["bec_epsilon_factor"] /= term.weight
            origins["prefactor"] = f"charges in e: those of the file times sqrt({term.weight:g})"
        return charge, LES(parameters, scale, origins=origins)
    key = term.record.value("feature_key")
    heads = [
        record
        for record in _kind(term.potential, "Atomwise")
        if record.value("per_atom_output_key", None) == key
    ]
    if len(heads) != 1:
        raise unsupported(
            term.record.path_of("feature_key"), "the charges of one network", describe(key)
        )
    outputs = term.potential.items("output_modules")
    return heads[0], ewald_parameters(term.record, term.weight, heads[0], outputs)


def _check_features(record: Record) -> None:
    """Refuses a wrapper of anything but the features of the representation."""
    if record.value("feature_key") not in _FEATURES:
        raise UnsupportedModelError(
            f"model: option {record.path}.feature_key: expected 'node_feats', got "
            f"{describe(record.value('feature_key'))}"
        )
