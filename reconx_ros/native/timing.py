"""Compiled kernels beside their torch twins: how long both take in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def compared(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, baseline_repeats: int
) -> dict[str, float]:
    """Median milliseconds of both, by the clock and of all processors together, and how much longer torch takes."""
    (native_ms, native_cpu_ms), (torch_ms, torch_cpu_ms) = median_ms(ours, repeats), median_ms(theirs, baseline_repeats)
    times = {"native_ms": native_ms, "torch_ms": torch_ms, "ratio": torch_ms / native_ms}
    return times | {"native_cpu_ms": native_cpu_ms, "torch_cpu_ms": torch_cpu_ms}


def median_ms(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median wall-clock time, and processor time of all threads, in milliseconds, after one run that is not timed."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, processor = zip(*times, strict=True)
    return 1e3 * statistics.median(wall), 1e3 * statistics.median(processor)
