"""Learning rate over a run."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, steps: int, warmup: int, peak: float, final: float) -> float:
    """Rate at a step from 0: a linear rise over ``warmup`` steps, then half a cosine from ``peak`` to ``final``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
