"""Electric response of a model: dipole, polarization and Born effective charges.

Latent charges are physical up to their sign and the electronic screening (arXiv:2504.05169).
"""

from openmm_les.evaluation.response.results import PhysicalMoments, Response, polarization_change

__all__ = ["PhysicalMoments", "Response", "polarization_change"]
