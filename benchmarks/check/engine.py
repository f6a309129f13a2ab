"""What the engine chooses on this device, and whether that is right."""

from check.carried import DEMO, OFF, system_model
from check.correctness import errors
from check.stages import Visit

#: Atoms, on a CPU and on a GPU, and time for each of them [s]; CPUs of tests may be busy.
_SIZES, _SIZES_ON_GPU = (22,), (22, 1029)
_SECONDS, _SECONDS_ON_GPU = 30.0, 15.0


def decisions(visit: Visit) -> None:
    """Every candidate with its time, or why it was dropped, and errors of the chosen one."""
    name = OFF if visit.on_gpu and OFF in visit.carried.models else DEMO
    limit = _SECONDS_ON_GPU if visit.on_gpu else _SECONDS
    for size in _SIZES_ON_GPU if visit.on_gpu else _SIZES:
        structure, artifact = visit.carried.structures[size], visit.carried.artifact(name)
        with visit.piece(f"{name}/{size}") as found:
            model = system_model(artifact, structure, device=visit.device, engine="auto")
            decision = model.tune(structure.positions, seconds=limit, again=True)
            found["chosen"] = decision.variant.name
            found["ms"] = {each: 1e3 * seconds for each, seconds in decision.times.items()}
            found["dropped"] = decision.dropped
            for _ in range(3):  # the first call, the recording, the graph
                result = model.evaluate(structure.positions)
            found |= errors(result, visit.carried.references[name, size], "single")
            wrong = any("gives other" in reason for reason in decision.dropped.values())
            found["ok"] = found["ok"] and not wrong
