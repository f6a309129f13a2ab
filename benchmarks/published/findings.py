"""What a system yields: rows of the table, curves for the pictures."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Row:
    """A quantity of the table; None where there is no such number."""

    quantity: str
    unit: str
    ours: float | None
    original: float | None = None  #: By the original code
    paper: float | None = None  #: Published
    true: float | None = None  #: By DFT, or exact


@dataclass
class Findings:
    """Of one system."""

    rows: list[Row] = field(default_factory=list)
    #: By name; for pictures
    curves: dict[str, Any] = field(default_factory=dict)
