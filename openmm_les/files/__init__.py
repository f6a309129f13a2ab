"""Files: read once, written whole, with one clear error for each kind of damage."""
