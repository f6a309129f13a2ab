"""Runners that no variant should have, named as `Variant.runner` in child processes."""

import os
import signal
import time


def wrong(evaluate):
    def scaled(*inputs):
        energy, forces, *rest = evaluate(*inputs)
        return energy, 1.01 * forces, *rest

    return scaled


def constant(evaluate):
    """Very fast, and right for the structure that it saw first."""
    kept = []

    def first(*inputs):
        kept.append(kept[0] if kept else evaluate(*inputs))
        return kept[0]

    return first


def slow(evaluate):
    def late(*inputs):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
        return evaluate(*inputs)

    return late


def fails(evaluate):
    raise NotImplementedError("no such kernel")


def crashes(evaluate):
    def end(*inputs):
        os.kill(os.getpid(), signal.SIGSEGV)

    return end


def hangs(evaluate):
    time.sleep(1000)
