"""What comes after a simulation: spectra, comparison with reference data, pictures."""
