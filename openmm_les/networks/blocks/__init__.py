"""Parts from which the networks of all families are built."""
