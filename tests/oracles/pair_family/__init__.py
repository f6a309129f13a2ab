"""The smallest family there can be, as a plug-in: pair energies and pair charges."""
