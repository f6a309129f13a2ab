"""Start structures: files, checks, and the selection of an ML region."""
