"""Electric response of a model: dipole, polarization and Born effective charges.

A model that was trained on energies and forces alone has them, since its latent charges are
physical up to their sign and the electronic screening of the medium (Zhong et al.,
arXiv:2504.05169).
"""

from openmm_les.evaluation.response.results import Response, polarization_change

__all__ = ["Response", "polarization_change"]
