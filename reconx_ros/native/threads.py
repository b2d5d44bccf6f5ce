"""How threads wait. Call ``set_wait_policy()`` first thing in every entry point."""

from __future__ import annotations

import os


def set_wait_policy() -> None:
    """Let idle OpenMP threads sleep instead of spin; has no effect once torch is imported.

    A thread that spins at a barrier takes its core from the threads it waits for: on a computer that is busy with
    other work the kernels ran several times slower with spinning, and on an idle one no faster. OpenMP reads
    ``OMP_WAIT_POLICY`` when it is loaded, which importing torch does. A value that the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
