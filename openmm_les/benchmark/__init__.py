"""How fast a model runs on this machine, as a report that others can read."""
