"""From messages to frames, and the action's messages, without nodes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sensor_msgs")
pytest.importorskip("reconx_ros.action")

from reconx_ros.action import Reconstruct
from sensor_msgs.msg import Image

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, PointCloud
from reconx_ros.core.settings import updated
from reconx_ros.geometry.tf_tree import TransformBuffer
from reconx_ros.io.images import encode_jpeg
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.action_messages import (
    goal_of_request,
    outcome_of_result,
    request_of_goal,
    result_of_outcome,
)
from reconx_ros.ros.conversions import camera_info_msg, header_msg, image_msg
from reconx_ros.ros.ingest import CameraInput, Ingest, shrunk
from reconx_ros.ros.job_data import EncodedKeyframe, EncodedView, ErrorCode, JobOutcome, JobRequest
from reconx_ros.ros.mailbox import DropCounter

S = 1_000_000_000
CAMERA = PinholeCamera(width=16, height=12, fx=14, fy=14, cx=7.5, cy=5.5)
CONFIG = ReconxConfig()
DEPTH_CONFIG = updated(CONFIG, {"ros.use_depth": True})


class Bench:
    """An Ingest with a transform buffer and one camera."""

    def __init__(self) -> None:
        self.tf = TransformBuffer()
        self.drops = DropCounter()
        self.jumps: list[str] = []
        self.ingest = Ingest(self.tf.lookup, self.drops, self.jumps.append)
        self.camera = CameraInput("front")

    def info(self) -> None:
        self.camera.info = camera_info_msg(CAMERA, header_msg(0, "cam"))

    def move(self, *stamps_ns: int) -> None:
        for stamp_ns in stamps_ns:
            pose = SE3.exp(np.zeros(3), np.array([stamp_ns / S, 0, 0]))
            self.tf.set_transform("map", "cam", stamp_ns, pose)

    def image(self, stamp_ns: int, *, now_s: float = 0.0, capacity: int = 10) -> None:
        msg = image_msg(np.zeros((12, 16, 3), np.uint8), "rgb8", header_msg(stamp_ns, "cam"))
        self.ingest.put(self.camera, msg, now_s, capacity)

    def depth(self, stamp_ns: int, value: float = 2.0) -> None:
        pixels = np.full((12, 16), value, np.float32)
        self.camera.depths.append(image_msg(pixels, "32FC1", header_msg(stamp_ns, "cam")))

    def frames(self, config: ReconxConfig = CONFIG, now_s: float = 0.0) -> list[Frame]:
        return [frame for frame, _ in self.ingest.take_ready(config, now_s)]


def test_a_frame_waits_for_calibration_and_transform() -> None:
    bench = Bench()
    bench.image(2 * S)
    assert bench.frames() == [] and bench.ingest.waiting[0].waits_for == "no_camera_info"
    bench.info()
    assert bench.frames() == [] and bench.ingest.waiting[0].waits_for == "no_pose"
    bench.move(1 * S, 3 * S)
    (frame,) = bench.frames()
    assert frame.world_from_cam is not None and frame.world_from_cam.translation[0] == pytest.approx(2.0)
    assert frame.stamp_ns == 2 * S and frame.camera_name == "front" and not bench.ingest.waiting
    assert bench.drops.snapshot() == {} and bench.ingest.problems == {}


def test_waiting_ends_after_the_timeout() -> None:
    bench = Bench()
    bench.info()
    bench.image(2 * S, now_s=10.0)
    assert bench.frames(now_s=11.9) == [] and bench.drops.snapshot() == {}
    assert bench.frames(now_s=12.0) == [] and bench.drops.snapshot() == {"no_pose": 1}
    assert "frame 'map' is not in the transform tree" in bench.ingest.problems["no_pose"]


def test_a_transform_that_will_never_come_ends_the_wait_at_once() -> None:
    bench = Bench()
    bench.info()
    bench.move(5 * S, 6 * S)
    bench.image(2 * S)
    assert bench.frames() == [] and bench.drops.snapshot() == {"pose_too_old": 1}


def test_the_queue_is_bounded_and_the_oldest_gives_way() -> None:
    bench = Bench()
    bench.info()
    for i in range(5):
        bench.image((2 + i) * S, capacity=3)
        bench.frames()
    assert [p.stamp_ns for p in bench.ingest.waiting] == [4 * S, 5 * S, 6 * S]
    assert bench.drops.snapshot() == {"no_pose": 2}
    bench.ingest.clear("reset")
    assert bench.drops.snapshot() == {"no_pose": 2, "reset": 3}


def test_depth_is_paired_by_stamp() -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)
    bench.image(2 * S)
    assert bench.frames(DEPTH_CONFIG) == [] and bench.ingest.waiting[0].waits_for == "no_depth"
    bench.depth(2 * S - 500_000_000, 7.0)
    assert bench.frames(DEPTH_CONFIG) == []
    bench.depth(2 * S + 10_000_000, 3.0)
    (frame,) = bench.frames(DEPTH_CONFIG)
    assert frame.depth_m is not None and frame.depth_m[0, 0] == 3.0
    bench.image(3 * S)
    bench.depth(4 * S)  # nothing for 3 s will come any more
    (frame,) = bench.frames(DEPTH_CONFIG)
    assert frame.depth_m is None and bench.drops.snapshot() == {"frame_without_depth": 1}
    bench.image(5 * S, now_s=0.0)
    (frame,) = bench.frames(DEPTH_CONFIG, now_s=100.0)
    assert frame.depth_m is None


def test_stamps_that_jump_back_are_told_once() -> None:
    bench = Bench()
    bench.image(50 * S)
    bench.image(49_500_000_000)
    assert bench.jumps == []
    bench.image(1)  # one wrong stamp
    bench.image(50 * S)
    assert bench.jumps == []
    bench.image(1 * S)
    bench.image(2 * S)
    bench.image(3 * S)
    assert bench.jumps == ["the stamps of camera 'front' jumped back by 48.000 s"]


def test_calibration_is_taken_over_when_it_changes() -> None:
    bench = Bench()
    bench.info()
    first = bench.camera.rectifier(rectified=False)
    bench.info()
    assert bench.camera.rectifier(rectified=False) is first
    other = PinholeCamera(width=16, height=12, fx=20, fy=20, cx=7.5, cy=5.5)
    bench.camera.info = camera_info_msg(other, header_msg(0, "cam"))
    assert bench.camera.rectifier(rectified=False).camera == other


def test_a_frame_that_fails_unexpectedly_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)

    def broken(msg: object) -> None:
        raise RuntimeError("what now")

    monkeypatch.setattr("reconx_ros.ros.ingest.rgb_of_image", broken)
    bench.image(2 * S)
    assert bench.frames() == [] and bench.drops.snapshot() == {"error": 1} and not bench.ingest.waiting
    assert bench.ingest.problems["error"] == "a frame failed unexpectedly: RuntimeError: what now"


def test_no_pose_is_asked_for_where_there_is_none() -> None:
    bench = Bench()
    bench.info()
    bench.image(2 * S)
    (frame,) = bench.frames(updated(CONFIG, {"ros.pose_source": "none"}))
    assert frame.world_from_cam is None


def test_frames_are_shrunk_area_true_and_never_share_the_messages_buffer() -> None:
    camera = PinholeCamera(width=8, height=4, fx=8, fy=8, cx=3.5, cy=1.5)
    rgb = np.zeros((4, 8, 3), np.uint8)
    rgb[:, ::2] = 200
    depth = np.arange(32, dtype=np.float32).reshape(4, 8) + 1
    small = shrunk(Frame(rgb_u8=rgb, camera=camera, depth_m=depth), 4)
    assert small.camera == PinholeCamera(width=4, height=2, fx=4, fy=4, cx=1.5, cy=0.5)
    assert small.rgb_u8.tolist() == np.full((2, 4, 3), 100).tolist()
    assert small.depth_m is not None and set(small.depth_m.ravel()) <= set(depth.ravel())
    same = shrunk(Frame(rgb_u8=rgb, camera=camera), 640)
    assert not np.shares_memory(same.rgb_u8, rgb)


# Action messages ------------------------------------------------------------------------------------------------


def encoded(number: int, pose: SE3 | None) -> EncodedKeyframe:
    image = encode_jpeg(np.full((12, 16, 3), number, np.uint8))
    return EncodedKeyframe(
        id=number, stamp_ns=number, camera_name="c", view=EncodedView(camera=CAMERA, pose=pose, image=image)
    )


def test_goals_round_trip() -> None:
    pose = SE3.exp(np.array([0.1, -0.2, 0.3]), np.array([1.0, 2.0, 3.0]))
    request = JobRequest(
        job_id="j", frame_id="map", stamp_ns=3, keyframes=(encoded(2, pose), encoded(3, None)), preset="cpu",
        options_yaml="a: 1", preview=True, metric_poses=False,
    )  # fmt: skip
    back = request_of_goal(goal_of_request(request))
    assert (back.job_id, back.frame_id, back.stamp_ns, back.preset, back.preview, back.metric_poses) == (
        "j", "map", 3, "cpu", True, False,
    )  # fmt: skip
    assert [k.id for k in back.keyframes] == [2, 3] and back.keyframes[1].view.pose is None
    assert back.keyframes[0].view.pose is not None
    np.testing.assert_allclose(back.keyframes[0].view.pose.matrix, pose.matrix, atol=1e-12)
    assert back.keyframes[0].view.image == request.keyframes[0].view.image


def test_results_round_trip() -> None:
    view = EncodedView(camera=CAMERA, pose=SE3.identity(), image=b"jpeg", depth=b"png", provenance=b"mask")
    outcome = JobOutcome(
        keyframe_poses={7: SE3.identity()},
        novel_views=(view, view),
        metric_scale=True,
        scene_path="/x",
        report_json="{}",
    )
    back = outcome_of_result(result_of_outcome(outcome, 5, "map"))
    assert back.succeeded and list(back.keyframe_poses) == [7] and len(back.cloud) == 0
    assert back.novel_views[1].depth == b"png" and back.novel_views[1].provenance == b"mask"
    failed = outcome_of_result(result_of_outcome(JobOutcome.failure(ErrorCode.NO_DISK, "full"), 5, "map"))
    assert failed.error_code == ErrorCode.NO_DISK and failed.error_msg == "full" and failed.novel_views == ()


def test_error_codes_are_those_of_the_action() -> None:
    constants = {n: getattr(Reconstruct.Result, n) for n in ErrorCode.__members__}
    assert constants == {n: int(code) for n, code in ErrorCode.__members__.items()}


def test_results_that_disagree_with_themselves_are_refused() -> None:
    result = result_of_outcome(JobOutcome(keyframe_poses={1: SE3.identity()}), 5, "map")
    result.keyframe_ids.append(9)
    with pytest.raises(InvalidInputError, match="keyframe_poses has 1 entries, expected 2"):
        outcome_of_result(result)
    empty = Reconstruct.Result()
    assert outcome_of_result(empty).cloud.points.shape == PointCloud.empty().points.shape


def test_an_image_of_another_size_than_its_calibration_is_a_bad_image() -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)
    msg: Image = image_msg(np.zeros((5, 5, 3), np.uint8), "rgb8", header_msg(2 * S, "cam"))
    bench.ingest.put(bench.camera, msg, 0.0, 10)
    assert bench.frames() == [] and bench.drops.snapshot() == {"bad_image": 1}
