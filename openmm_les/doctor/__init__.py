"""Findings about an installation, and what mends them."""

from openmm_les.doctor.findings import Finding, examine, worst

__all__ = ["Finding", "examine", "worst"]
