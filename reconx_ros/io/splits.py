"""Few-view splits of a scene: which pictures are given, and which are held back to test on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from reconx_ros.core import SE3
from reconx_ros.io.scene_views import SceneSplit, spread

FEW_VIEW_SIZES = (2, 3, 6, 9)
_BASELINE_M = 0.35  # from one input to the next
_TESTS_PER_GAP = 4


def few_view_splits(given: Sequence[str], test: Sequence[str], protocol: str) -> dict[str, SceneSplit]:
    """Splits of 2, 3, 6 and 9 inputs, spread evenly over the pictures that may be given; all with the same tests.

    Empty where there is nothing to test on.
    """
    sizes = [n for n in FEW_VIEW_SIZES if n <= len(given)] if test else []
    return {str(n): SceneSplit(inputs=spread(given, n), test=tuple(test), protocol=protocol) for n in sizes}


def every_eighth_split(names: Sequence[str]) -> dict[str, SceneSplit]:
    """Every 8th picture, the first of them included, is a test; inputs are spread evenly over the others."""
    given = [name for k, name in enumerate(names) if k % 8]
    return few_view_splits(given, names[::8], "every 8th image held out")


def neighbouring_splits(poses: Mapping[str, SE3]) -> dict[str, SceneSplit]:
    """Splits of a metric sequence: inputs 0.35 m of the way apart around its middle, up to 4 tests between each two.

    Where pictures are so far apart that none lies between, every other one is an input. Sizes for which the sequence is
    too short are left out. A recording of minutes has few pictures that see what a handful of others saw; those between
    two neighbouring inputs do.

    Args:
        poses: world_from_cam in metres by name, in order of time.
    """
    names, way_m, splits = list(poses), _way(poses), {}
    for size in FEW_VIEW_SIZES:
        if way_m[-1] <= 0 or len(names) < 2 * size - 1:
            continue
        reach_m = min(_BASELINE_M * (size - 1), float(way_m[-1]))
        start_m = (way_m[-1] - reach_m) / 2
        places = np.searchsorted(way_m, np.linspace(start_m, start_m + reach_m, size) - 1e-9)
        distance = f"{reach_m / (size - 1):.2f} m apart"
        if (np.diff(places) < 2).any():  # pictures far from each other
            places = (len(names) - (2 * size - 1)) // 2 + 2 * np.arange(size)
            distance = "every other picture"
        test = [k for a, b in pairwise(places) for k in _between(int(a), int(b))]
        splits[str(size)] = SceneSplit(
            inputs=tuple(names[k] for k in places),
            test=tuple(names[k] for k in test),
            protocol=f"inputs {distance} in the middle of the sequence, tests between them",
        )
    return splits


def _way(poses: Mapping[str, SE3]) -> np.ndarray:
    """Metres travelled up to each picture [V]."""
    places = np.stack([pose.translation for pose in poses.values()])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _between(a: int, b: int) -> list[int]:
    """Up to 4 places strictly between two, evenly spread."""
    count = min(_TESTS_PER_GAP, b - a - 1)
    return [int(k) for k in np.linspace(a, b, count + 2).round()[1:-1]]
