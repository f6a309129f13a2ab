"""Checks of an installation, with the commands that repair it."""

from openmm_les.doctor.checks import Finding, examine, worst

__all__ = ["Finding", "examine", "worst"]
