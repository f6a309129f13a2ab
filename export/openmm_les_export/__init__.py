"""Exporters: trained LES models become artifacts (``*.les.pt``) that `openmm_les` runs.

Importing this package imports no torch; the functions do.
"""

from openmm_les_export.api import export, read_model

__all__ = ["export", "read_model"]
