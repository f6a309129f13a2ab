"""The report of a run: one page of what was done, what came of it, and how to go on.

It is made when the run ends, in whatever way, of the files that the run has written.
"""

from openmm_les.simulation.report.page import write, written_on_failure

__all__ = ["write", "written_on_failure"]
