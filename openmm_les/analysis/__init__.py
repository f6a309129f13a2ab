"""Analysis: spectra from time series, and comparison of a model with reference data."""
