"""What reconx_node publishes: bytes, QoS and its overrides, laziness, provenance, thinning, and the viewers' files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import ListParameters, SetParameters
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from reconx_ros.msg import Keyframe as KeyframeMsg
from ros_graph import FakeCamera, Graph, graph
from sensor_msgs.msg import PointCloud2

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe, PinholeCamera, PointCloud
from reconx_ros.geometry.voxel import thin_cloud, thin_to
from reconx_ros.io.images import encode_jpeg
from reconx_ros.jobs.data import EncodedView
from reconx_ros.jobs.encoding import encode_mask_png
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.mapper import CoverageReport
from reconx_ros.ros.conversions import cloud_from_msg, cloud_msg, header_msg
from reconx_ros.ros.graph.qos import latched_qos
from reconx_ros.ros.robot import outputs as outputs_module
from reconx_ros.ros.robot.outputs import Outputs

ROOT = Path(__file__).resolve().parent.parent
INFRASTRUCTURE = ("/rosout", "/parameter_events", "/clock")
SET_BY_RCL = re.compile(r"/transition_event$|/_action/")
BUILDERS = ("cloud_msg", "frustum_markers", "keyframe_msg", "coverage_msg", "tinted", "path_msg", "image_msg")
CAMERA = PinholeCamera(width=8, height=6, fx=8, fy=8, cx=3.5, cy=2.5)


def cloud_of_size(count: int, spread: float = 1.0) -> PointCloud:
    rng = np.random.default_rng(0)
    return PointCloud(
        points=(spread * rng.random((count, 3))).astype(np.float32),
        rgb_u8=rng.integers(0, 255, (count, 3), np.uint8),
        confidence=rng.random(count, np.float32),
        provenance=np.ones(count, np.uint8),
        keyframe_ids=np.zeros(count, np.uint32),
    )


# Bytes ----------------------------------------------------------------------------------------------------------


def test_point_cloud_layout_byte_for_byte() -> None:
    cloud = PointCloud(
        points=np.array([[1.0, -2.0, 0.5], [0.0, 1e-3, 100.0]], np.float32),
        rgb_u8=np.array([[255, 128, 1], [2, 3, 4]], np.uint8),
        confidence=np.array([0.25, 1.0], np.float32),
        provenance=np.array([1, 2], np.uint8),
        keyframe_ids=np.array([7, 0x01020304], np.uint32),
    )
    msg = cloud_msg(cloud, header_msg(1_500_000_000, "map"))
    assert bytes(msg.data).hex(" ", 4) == (
        "0000803f 000000c0 0000003f 0180ff00 0000803e 01000000 07000000 "
        "00000000 6f12833a 0000c842 04030200 0000803f 02000000 04030201"
    )
    assert (msg.height, msg.width, msg.point_step, msg.row_step) == (1, 2, 28, 56)
    assert (msg.is_bigendian, msg.is_dense) == (False, True)
    assert (msg.header.frame_id, msg.header.stamp.sec, msg.header.stamp.nanosec) == ("map", 1, 500_000_000)
    fields = [(f.name, f.offset, f.datatype, f.count) for f in msg.fields]
    assert fields == [
        ("x", 0, 7, 1),
        ("y", 4, 7, 1),
        ("z", 8, 7, 1),
        ("rgb", 12, 7, 1),
        ("confidence", 16, 7, 1),
        ("provenance", 20, 2, 1),
        ("keyframe_id", 24, 6, 1),
    ]


# Thinning -------------------------------------------------------------------------------------------------------


def test_voxels_grow_until_the_points_fit() -> None:
    cloud = cloud_of_size(5000)
    thinned, voxel = thin_to(cloud, 0.01, 300)
    assert 30 <= len(thinned) <= 300 and voxel > 0.01
    np.testing.assert_array_equal(thinned.points, thin_cloud(cloud, voxel).points)
    same, voxel = thin_to(cloud, 0.1, 5000)
    assert voxel == 0.1 and len(same) == len(thin_cloud(cloud, 0.1))
    one, _ = thin_to(cloud, 0.01, 1)
    assert len(one) == 1 and one.confidence[0] == cloud.confidence.max()
    assert len(thin_to(PointCloud.empty(), 0.1, 1)[0]) == 0
    with pytest.raises(InvalidInputError, match="max_points is 0, expected at least 1"):
        thin_to(cloud, 0.1, 0)


# Laziness -------------------------------------------------------------------------------------------------------


def everything(outputs: Outputs) -> None:
    """Publish one of all that the node publishes."""
    rgb = np.zeros((6, 8, 3), np.uint8)
    frame = Frame(rgb_u8=rgb, camera=CAMERA, stamp_ns=5, world_from_cam=SE3.identity())
    keyframe = Keyframe(id=0, frame=frame, sharpness=1.0)
    report = CoverageReport(
        mean=0.5, current=0.5, cells=np.zeros((2, 2), bool), inferred=np.eye(2, dtype=bool), per_keyframe={}
    )
    config = ReconxConfig()
    view = EncodedView(
        camera=CAMERA,
        pose=SE3.identity(),
        image=encode_jpeg(rgb),
        depth=None,
        provenance=encode_mask_png(np.ones((6, 8), np.uint8)),
    )
    outputs.points(cloud_of_size(10), 5, "map", config.output)
    outputs.keyframes([keyframe], "map", 0.1, set())
    outputs.keyframe(keyframe, encode_jpeg(rgb), "map", "cam")
    outputs.coverage(report, config.coverage, frame, "cam", triggered=False)
    outputs.novel_views([view], 5, "map")


def test_nothing_is_built_that_nobody_subscribes_to(
    ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    for name in BUILDERS:
        real: Callable[..., Any] = getattr(outputs_module, name)

        def counted(*arguments: Any, name: str = name, real: Callable[..., Any] = real) -> Any:
            built.append(name)
            return real(*arguments)

        monkeypatch.setattr(outputs_module, name, counted)
    with graph(tmp_path) as made:
        outputs = Outputs(made.node, lambda topic, policy: None, 1)
        everything(outputs)
        outputs.serve_late()
        assert built == [] and outputs.thinning == ""
        small = made.listen(PointCloud2, "test/points_downsampled", latched_qos())
        keyframes = made.listen(KeyframeMsg, "test/keyframe")

        def served() -> bool:
            outputs.serve_late()
            return bool(small)

        made.wait("the cloud for the late subscriber", served)
        assert built == ["cloud_msg"] and outputs.thinning.startswith("10 of 10 points")
        made.wait("the match", lambda: made.node.count_subscribers("test/keyframe") == 1)
        everything(outputs)
        made.wait("a keyframe", lambda: bool(keyframes))
        assert sorted(built[1:]) == ["cloud_msg", "keyframe_msg"]
        outputs.close()


# Quality of service ---------------------------------------------------------------------------------------------


def endpoints(made: Graph, node: str, kind: str) -> dict[str, Any]:
    """Topic to QoS of all that a node publishes ("publishers") or subscribes to, but for what every node has."""
    listed = {"publishers": "publisher", "subscriptions": "subscriber"}[kind]
    if node not in made.node.get_node_names():
        return {}
    names = getattr(made.node, f"get_{listed}_names_and_types_by_node")(node, "/")
    found = {}
    for topic, _ in names:
        for info in getattr(made.node, f"get_{kind}_info_by_topic")(topic):
            if info.node_name == node and not topic.startswith(INFRASTRUCTURE) and not SET_BY_RCL.search(topic):
                found[topic] = info.qos_profile
    return found


def overrides(topics: set[str], kind: str, **policies: str) -> list[str]:
    words = []
    for topic in sorted(topics):
        for policy, value in policies.items():
            words += ["-p", f"qos_overrides.{topic}.{kind}.{policy}:={value}"]
    return words


def test_every_endpoint_takes_qos_overrides_and_viewers_match(ros_domain: int, tmp_path: Path) -> None:
    parameters = {"ros__use_depth": True}
    source = (ROOT / "reconx_ros" / "ros" / "robot" / "outputs.py").read_text()
    own = set(re.findall(r'make\(\w+, "~(/[\w/]+)"', source))
    publish = {"/diagnostics", "/reconx_node/status", *(f"/reconx_node{topic}" for topic in own)}
    subscribe = {"/image", "/camera_info", "/depth", "/depth/camera_info", "/tf", "/tf_static"}
    with graph(tmp_path) as made:

        def found(kind: str, wanted: set[str]) -> dict[str, Any]:
            made.wait(f"{kind} {sorted(wanted)}", lambda: wanted <= set(endpoints(made, "reconx_node", kind)))
            return endpoints(made, "reconx_node", kind)

        first = made.start("reconx_node", **parameters)
        published, subscribed = found("publishers", publish), found("subscriptions", subscribe)
        request = ListParameters.Request(prefixes=["qos_overrides"])
        known = set(made.call(ListParameters, "reconx_node/list_parameters", request).result.names)
        for kind, topics in (("publisher", published), ("subscription", subscribed)):
            missing = {t for t in topics if f"qos_overrides.{t}.{kind}.reliability" not in known}
            assert not missing, f"{kind}s without overrides"
        check_viewers(made, published)
        first.stop()
        made.wait("the node to be gone", lambda: not endpoints(made, "reconx_node", "publishers"))

        words = overrides(publish, "publisher", reliability="best_effort", durability="volatile", depth="3")
        words += overrides(subscribe, "subscription", reliability="reliable", durability="volatile")
        made.start("reconx_node", *words, **parameters)
        published, subscribed = found("publishers", publish), found("subscriptions", subscribe)
    unlike = {t for t, q in published.items() if q.reliability != ReliabilityPolicy.BEST_EFFORT}
    unlike |= {t for t, q in subscribed.items() if q.reliability != ReliabilityPolicy.RELIABLE}
    unlike |= {t for t, q in {**published, **subscribed}.items() if q.durability != DurabilityPolicy.VOLATILE}
    assert not unlike, "endpoints that did not take their overrides"


def check_viewers(made: Graph, offered: dict[str, Any]) -> None:
    """The files for RViz and Foxglove name topics and services that exist, with a QoS that matches."""
    displays = yaml.safe_load((ROOT / "config" / "reconx.rviz").read_text())["Visualization Manager"]["Displays"]
    layout = json.loads((ROOT / "config" / "foxglove.json").read_text())
    types = {name: types[0] for name, types in made.node.get_topic_names_and_types()}
    services = {name for name, _ in made.node.get_service_names_and_types_by_node("reconx_node", "/")}
    shown = {d["Topic"]["Value"]: d for d in displays if "Topic" in d}
    assert len(shown) >= 6
    for topic, display in shown.items():
        asked, qos = display["Topic"], offered[topic]
        assert types[topic].rsplit("/", 1)[1] == display["Class"].rsplit("/", 1)[1], topic
        assert asked["Reliability Policy"] == "Reliable" and qos.reliability == ReliabilityPolicy.RELIABLE, topic
        latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert asked["Durability Policy"] == ("Transient Local" if latched else "Volatile"), topic
    topics, called = set(foxglove_topics(layout["configById"])), set(foxglove_services(layout["configById"]))
    assert len(topics) >= 8 and topics <= set(types), topics - set(types)
    assert called == {"/reconx_node/trigger"} and called <= services
    assert set(foxglove_panels(layout["layout"])) == set(layout["configById"])


def foxglove_topics(panels: dict[str, Any]) -> Iterator[str]:
    for panel in panels.values():
        yield from panel.get("topics", {})
        for key in ("topicPath", "topicToRender"):
            if key in panel:
                yield panel[key]
        yield from (v for k, v in panel.get("imageMode", {}).items() if k.endswith("Topic"))
        yield from (path["value"].split(".")[0] for path in panel.get("paths", []))


def foxglove_services(panels: dict[str, Any]) -> Iterator[str]:
    yield from (panel["serviceName"] for panel in panels.values() if "serviceName" in panel)


def foxglove_panels(layout: Any) -> Iterator[str]:
    if isinstance(layout, str):
        yield layout
    else:
        yield from (name for side in ("first", "second") for name in foxglove_panels(layout[side]))


# The clouds of a running node -----------------------------------------------------------------------------------


def set_parameter(made: Graph, name: str, value: ParameterValue) -> Any:
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
    return made.call(SetParameters, "reconx_node/set_parameters", request).results[0]


def test_clouds_hold_no_generated_points_and_obey_their_bounds(ros_domain: int, tmp_path: Path) -> None:
    with graph(tmp_path) as made:
        points = made.listen(PointCloud2, "reconx_node/points", latched_qos())
        small = made.listen(PointCloud2, "reconx_node/points_downsampled", latched_qos())
        camera = FakeCamera(made)
        made.start("reconstruction_server", ros__worker_target="ros_stub_jobs:half_generated")
        node = made.start("reconx_node", ros__retry_s=0.1, output__max_cloud_bytes=1000)
        camera.ready()
        camera.walk(4)
        made.wait("the map", lambda: points and points[-1].width)
        assert points[-1].width == 400 and set(cloud_from_msg(points[-1]).provenance.tolist()) == {1}
        made.wait("the thinned map", lambda: small and small[-1].width)
        assert len(small[-1].data) <= 1000 and small[-1].header == points[-1].header
        assert set(cloud_from_msg(small[-1]).provenance.tolist()) == {1}
        made.wait("word of it", lambda: "which exceed output.max_cloud_bytes = 1000" in node.text())

        generous = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=1_000_000)
        assert set_parameter(made, "output.max_cloud_bytes", generous).successful
        made.wait("a larger thinned map", lambda: len(small[-1].data) > 1000)
        assert small[-1].width == len(thin_cloud(cloud_from_msg(points[-1]), 0.05))
        words = ["observed", "generated"]
        kinds = ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=words)
        assert set_parameter(made, "output.kinds", kinds).successful
        words[1] = "imagined"
        kinds = ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=words)
        assert "expected one of observed, inferred" in set_parameter(made, "output.kinds", kinds).reason
        made.wait("the generated points too", lambda: points[-1].width == 800)
        assert set(cloud_from_msg(points[-1]).provenance.tolist()) == {1, 2}
