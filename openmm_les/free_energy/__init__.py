"""Free energies of an LES model in the place of a force field, from windows of lambda.

The energy is that of the force field at lambda = 0, that of ML/MM at 1, and linear in between.
"""
