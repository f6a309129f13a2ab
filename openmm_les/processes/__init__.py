"""Threads, child processes and signals of the process that runs torch and OpenMM."""
