"""The status of an evaluation: a set of bits, 0 if the results are valid."""

STATUS_OVERFLOW = 1
STATUS_BOX = 2
STATUS_POSITIONS = 4
STATUS_COINCIDENT = 8
STATUS_RESULT = 16

MESSAGES = {
    STATUS_POSITIONS: "positions or box vectors are NaN or infinite; the simulation is unstable "
    "(minimise first, or reduce the time step)",
    STATUS_COINCIDENT: "two atoms are at the same place; check the input structure",
    STATUS_OVERFLOW: "an atom has more neighbours than the neighbour matrix holds, or a cell of "
    "the neighbour search more atoms than it has slots for; raise the option maxNeighbors",
    STATUS_BOX: "the box has changed by more than the buffers made at the start allow (15 % of the "
    "volume); create the System again from the present box, or use backend='pythonforce', which "
    "makes new buffers by itself",
    STATUS_RESULT: "energy or forces are NaN or infinite; the structure is far outside what the "
    "model can describe (minimise first, or reduce the time step)",
}


def describe_status(status: int) -> str:
    """The messages of a status, most basic cause first."""
    return "; ".join(text for bit, text in MESSAGES.items() if status & bit) or "no error"
