"""The rows of the geometry benchmark, and the scene that it measures on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reconx_ros.core import Job
from reconx_ros.native import library
from reconx_ros.pointmap.backends.multiview import MultiviewBackend
from reconx_ros.pointmap.bench import run_bench, wall_keyframes
from reconx_ros.pointmap.config import PointmapConfig


def test_rows() -> None:
    reason = library.unavailable_reason()
    if reason is not None:
        pytest.skip(reason)
    rows = run_bench([(48, 32, 2, 9, 5)], [(48, 32, 9)], [(64, 48, 3)], repeats=1, baseline_repeats=1)
    assert [(row["what"], row["size"], row["sources"], row["planes"], row["window"]) for row in rows] == [
        ("sweep", "48x32", 2, 9, 5),
        ("sgm, 4 paths", "48x32", None, 9, None),
        ("cross-view check", "48x32", 4, None, None),
        ("whole view, of 3", "64x48", 2, 96, 5),
        ("completed view, of 3; beside it the smooth guess", "64x48", None, None, None),
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["torch_ms"] / row["native_ms"])
        assert row["native_ms"] > 0 and row["threads"] == torch.get_num_threads()


def test_the_wall_is_where_its_poses_say() -> None:
    views = MultiviewBackend().reconstruct(
        wall_keyframes(96, 72, 3), PointmapConfig(max_size=96), device=torch.device("cpu"), job=Job()
    )
    found = np.concatenate([v.depth[v.valid].numpy() for v in views.views])
    assert len(found) > 0.8 * 3 * 96 * 72
    assert np.median(np.abs(found / 2.0 - 1)) < 0.005
