"""Threads, child processes and signals."""
