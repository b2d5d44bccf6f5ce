"""``reconx bench ros``: what it counts, and that the clouds it compares are the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from reconx_ros.cli.main import main
from reconx_ros.ros.tools.bench import Watched, load_rows
from reconx_ros.ros.tools.cloud_bench import cloud_rows
from reconx_ros.ros.tools.load import Sent, slope_per_minute


def test_clouds_of_all_ways_are_the_same_and_are_timed(ros_domain: int) -> None:
    rows = {row["measure"]: row for row in cloud_rows(5000)}
    assert len(rows) == 6 and all(row["value"] > 0 for row in rows.values())
    ours = rows["cloud of 5,000 points, ours: build"]
    assert ours["ratio"] is None
    plain = rows["cloud of 5,000 points, plain Python: build"]
    assert plain["ratio"] == pytest.approx(plain["value"] / ours["value"])


def test_a_load_is_summed_up() -> None:
    sent = Sent(frames=600, transforms=1000, seconds=10.0, late_ms=[0.1] * 999 + [7.0])
    memory = [(float(t), 100.0 + (50.0 if t < 60 else 0.5 * t / 60)) for t in range(180)]
    watched = Watched(
        sent=sent,
        received=598,
        drops={"busy": 3, "no_pose": 0},
        p50_ms=[0.01, 0.02, 0.03],
        p99_ms=[0.1, 0.2, 0.9],
        jobs=4,
        busy_share=0.9,
        memory={"reconx_node": memory},
        cpu={"reconx_node": 0.3},
    )
    values = {row["measure"]: row["value"] for row in load_rows(watched)}
    assert values["lost before the mailbox"] == 2 and values["ingest rate"] == pytest.approx(59.8)
    assert values["thrown away after it, with reasons"] == "busy 3"
    assert values["image callback, p99, worst 1,000 images"] == 0.9
    assert values["reconx_node: growth of memory"] == pytest.approx(0.5), "the first minute does not count"
    assert slope_per_minute([0.0, 1.0], [1.0, 2.0]) is None
    assert math.isfinite(values["source behind its clock, p99"])


def test_a_length_that_makes_no_sense_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ros", "--seconds", "0"]) != 0
    assert "--seconds is 0, expected at least 1" in capsys.readouterr().err
