"""One artifact specialised to one system, and the ways of running it."""
