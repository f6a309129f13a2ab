"""The few lines that one reads first."""

from typing import Any


def is_good(document: dict[str, Any]) -> bool:
    """Whether every stage ended and nothing in it was wrong."""
    stages = document["stages"].values()
    return all(s["status"] == "done" and not wrong(s) for s in stages)


def wrong(stage: dict[str, Any]) -> list[str]:
    """Names of what a stage found to be wrong or could not do."""
    return [
        name
        for name, value in stage.get("found", {}).items()
        if isinstance(value, dict) and (value.get("ok") is False or "failed" in value)
    ]


def text(document: dict[str, Any]) -> str:
    lines = [f"{document['device']}, {document['minutes']:.1f} minutes"]
    for name, stage in document["stages"].items():
        bad = wrong(stage)
        lines.append(f"{name}: {stage['status']}" + (f"; wrong: {', '.join(bad)}" if bad else ""))
        lines += [f"  {key}: {_short(value)}" for key, value in stage.get("found", {}).items()]
        lines += [f"  | {line}" for line in stage.get("log", [])]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)[:160]
