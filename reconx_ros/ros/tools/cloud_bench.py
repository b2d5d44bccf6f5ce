"""How fast a cloud becomes a message: our way beside plain Python and beside numpy alone."""

from __future__ import annotations

import array
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from reconx_ros.core import PointCloud, ReconstructionError
from reconx_ros.ros.conversions import CLOUD_DTYPE, cloud_msg, header_msg
from reconx_ros.ros.graph.qos import reliable_qos
from reconx_ros.ros.tools.session import RosSession

Row = dict[str, Any]
_START_S = 60.0


def cloud_rows(points: int) -> list[Row]:
    """Time to make and publish a PointCloud2, each way checked to give the same bytes.

    Raises:
        ReconstructionError: when they differ.
    """
    cloud, header = _cloud(points), header_msg(0, "map")
    ways: list[tuple[str, Callable[[PointCloud], PointCloud2], int]] = [
        ("ours", lambda c: cloud_msg(c, header), 5),
        ("structured numpy, bytes", _structured_msg, 3),
        ("plain Python", _plain_msg, 1),
    ]
    rows: list[Row] = []
    wanted = bytes(cloud_msg(cloud, header).data)
    with tempfile.TemporaryDirectory(prefix="reconx_bench_") as folder, RosSession(Path(folder)) as session:
        node = Node("reconx_bench_cloud", context=session.context)
        heard: list[int] = []
        node.create_subscription(PointCloud2, "bench_cloud", lambda m: heard.append(len(m.data)), reliable_qos(1))
        publisher = node.create_publisher(PointCloud2, "bench_cloud", reliable_qos(1))
        session.add_node(node)
        session.wait(lambda: publisher.get_subscription_count() > 0, "the subscriber", timeout_s=_START_S)
        for name, make, repeats in ways:
            build_ms, publish_ms, same = _timed(make, cloud, publisher.publish, wanted, repeats)
            if not same:
                raise ReconstructionError(f"the cloud made by '{name}' has other bytes than ours")
            row = {"measure": f"cloud of {points:,} points, {name}: build", "value": build_ms, "unit": "ms"}
            ratio = build_ms / rows[0]["value"] if rows else None
            rows += [
                {**row, "ratio": ratio},
                {"measure": f"cloud of {points:,} points, {name}: publish", "value": publish_ms, "unit": "ms"},
            ]
        session.wait(lambda: bool(heard), "a cloud to arrive", timeout_s=_START_S)
    return rows


def _timed(
    make: Callable[[PointCloud], PointCloud2],
    cloud: PointCloud,
    publish: Callable[[PointCloud2], None],
    wanted: bytes,
    repeats: int,
) -> tuple[float, float, bool]:
    """Medians in milliseconds, and whether the bytes are the wanted ones."""
    build, sent, same = [], [], True
    for _ in range(repeats):
        start_s = time.perf_counter()
        msg = make(cloud)
        made_s = time.perf_counter()
        publish(msg)
        sent.append(time.perf_counter() - made_s)
        build.append(made_s - start_s)
        same &= bytes(msg.data) == wanted
    return 1e3 * statistics.median(build), 1e3 * statistics.median(sent), same


def _structured_msg(cloud: PointCloud) -> PointCloud2:
    """A structured array, assigned as bytes: what one writes with numpy alone."""
    rows = np.zeros(len(cloud), CLOUD_DTYPE)
    for name, column in _columns(cloud).items():
        rows[name] = column
    return _empty_msg(len(cloud), array.array("B", rows.tobytes()))


def _plain_msg(cloud: PointCloud) -> PointCloud2:
    """One struct.pack_into for each point."""
    pack, buffer = struct.Struct("<fffIfBxxxI"), bytearray(CLOUD_DTYPE.itemsize * len(cloud))
    for i, row in enumerate(zip(*(column.tolist() for column in _columns(cloud).values()), strict=True)):
        pack.pack_into(buffer, i * pack.size, *row)
    return _empty_msg(len(cloud), array.array("B", buffer))


def _columns(cloud: PointCloud) -> dict[str, np.ndarray]:
    red, green, blue = cloud.rgb_u8.astype(np.uint32).T
    x, y, z = cloud.points.T
    values = (x, y, z, red << 16 | green << 8 | blue, cloud.confidence, cloud.provenance, cloud.keyframe_ids)
    return dict(zip(CLOUD_DTYPE.names or (), values, strict=True))


def _empty_msg(count: int, data: array.array[int]) -> PointCloud2:
    step = CLOUD_DTYPE.itemsize
    return PointCloud2(height=1, width=count, point_step=step, row_step=step * count, data=data)


def _cloud(count: int) -> PointCloud:
    random = np.random.default_rng(0)
    return PointCloud(
        points=random.normal(size=(count, 3)).astype(np.float32),
        rgb_u8=random.integers(0, 256, (count, 3), np.uint8),
        confidence=random.random(count, np.float32),
        provenance=np.ones(count, np.uint8),
        keyframe_ids=random.integers(0, 64, count, np.uint32),
    )
