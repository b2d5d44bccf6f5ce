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
from reconx_ros.io.ingest.camera_input import CameraInput
from reconx_ros.io.ingest.drops import DropCounter
from reconx_ros.io.ingest.frame_queue import Ingest, Now, shrunk
from reconx_ros.jobs.data import EncodedKeyframe, EncodedView, ErrorCode, JobOutcome, JobRequest
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.conversions import camera_info_msg, header_msg, image_msg
from reconx_ros.ros.conversions.action_messages import (
    goal_from_request,
    outcome_from_result,
    request_from_goal,
    result_from_outcome,
)

S = 1_000_000_000
CAMERA = PinholeCamera(width=16, height=12, fx=14, fy=14, cx=7.5, cy=5.5)
CONFIG = ReconxConfig()
DEPTH_CONFIG = updated(CONFIG, {"ros.use_depth": True})


class Bench:
    """An Ingest with a transform buffer and one camera."""

    def __init__(self) -> None:
        self.tf = TransformBuffer()
        self.drops = DropCounter()
        self.jumps: list[tuple[str, int]] = []
        self.ingest = Ingest(self.tf, self.drops, lambda *jump: self.jumps.append(jump))
        self.camera = CameraInput("front")

    def info(self, camera: PinholeCamera = CAMERA, stamp_ns: int = 0) -> None:
        self.camera.lens.put(camera_info_msg(camera, header_msg(stamp_ns, "cam")))

    @property
    def problems(self) -> dict[str, str]:
        return {reason: problem.sentence for reason, problem in self.camera.problems.items()}

    def move(self, *stamps_ns: int) -> None:
        for stamp_ns in stamps_ns:
            pose = SE3.exp(np.zeros(3), np.array([stamp_ns / S, 0, 0]))
            self.tf.set_transform("map", "cam", stamp_ns, pose)

    def image(self, stamp_ns: int, *, now_s: float = 0.0, capacity: int = 10) -> None:
        msg = image_msg(np.zeros((12, 16, 3), np.uint8), "rgb8", header_msg(stamp_ns, "cam"))
        self.ingest.put(self.camera, msg, now_s, capacity)

    def depth(self, stamp_ns: int, value: float = 2.0) -> None:
        pixels = np.full((12, 16), value, np.float32)
        self.camera.put_depth(image_msg(pixels, "32FC1", header_msg(stamp_ns, "cam")))

    def frames(self, config: ReconxConfig = CONFIG, now_s: float = 0.0, ros_ns: int = 0) -> list[Frame]:
        now = Now(steady_s=now_s, ros_ns=ros_ns)
        return [frame for frame, _ in self.ingest.take_ready(config.ros, config.keyframes.max_size, now)]


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
    assert bench.drops.snapshot() == {} and bench.problems == {}


def test_waiting_ends_after_the_timeout() -> None:
    bench = Bench()
    bench.info()
    bench.image(2 * S, now_s=10.0)
    assert bench.frames(now_s=11.9) == [] and bench.drops.snapshot() == {}
    assert bench.frames(now_s=12.0) == [] and bench.drops.snapshot() == {"no_pose": 1}
    assert "frame 'map' is not in the transform tree" in bench.problems["no_pose"]


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
    assert bench.jumps == [("the stamps of camera 'front' jumped back by 48.000 s", 2 * S)]


def test_a_lone_stamp_far_in_the_future_is_not_believed() -> None:
    bench = Bench()
    for stamp_ns in (50 * S, 2_000_000_000 * S, 51 * S, 52 * S, 53 * S):
        bench.image(stamp_ns)
    assert bench.jumps == [] and bench.camera.stamps.newest_ns == 53 * S
    for stamp_ns in (200 * S, 201 * S, 60 * S, 61 * S):  # two in a row are a leap, and two back a jump
        bench.image(stamp_ns)
    assert bench.jumps == [("the stamps of camera 'front' jumped back by 140.000 s", 61 * S)]


@pytest.mark.parametrize(("stamp_ns", "words"), [(0, "has stamp zero, its driver"), (-5 * S, "is stamped -5.000 s")])
def test_an_image_without_a_time_is_refused(stamp_ns: int, words: str) -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)
    bench.image(stamp_ns)
    assert bench.frames() == [] and bench.drops.snapshot() == {"zero_stamp": 1}
    assert words in bench.problems["zero_stamp"] and bench.camera.stamps.newest_ns == 0


def test_a_stamp_ahead_of_the_clock_is_used_where_transforms_agree_and_named_where_not() -> None:
    bench = Bench()
    bench.info()
    bench.move(8 * S, 10 * S)
    bench.image(9 * S)
    assert len(bench.frames(ros_ns=1 * S)) == 1  # the whole robot is ahead of this computer: no fault
    bench.image(15 * S, now_s=0.0)
    assert bench.frames(ros_ns=10 * S) == [] and bench.ingest.waiting[0].waits_for == "future_stamp"
    assert bench.frames(now_s=3.0, ros_ns=13 * S) == [] and bench.drops.snapshot() == {"future_stamp": 1}
    sentence = bench.problems["future_stamp"]
    assert "is stamped 15.000 s, 2.000 s ahead of the system clock of this node (13.000 s)" in sentence
    assert "5.000 s after the newest sample" in sentence


def test_without_poses_a_stamp_of_the_future_waits_until_its_time_comes() -> None:
    bench, config = Bench(), updated(CONFIG, {"ros.pose_source": "none"})
    bench.info()
    bench.image(10 * S)
    assert bench.frames(config, ros_ns=9 * S) == [] and bench.ingest.waiting[0].waits_for == "future_stamp"
    assert len(bench.frames(config, now_s=0.6, ros_ns=9_600_000_000)) == 1
    bench.image(11 * S)
    assert len(bench.frames(config, ros_ns=0)) == 1  # no /clock yet: nothing to hold it against


def test_no_pose_is_made_up_across_a_gap() -> None:
    bench = Bench()
    bench.tf = TransformBuffer(max_gap_ns=2 * S)
    bench.ingest = Ingest(bench.tf, bench.drops, lambda *jump: None)
    bench.info()
    bench.move(1 * S, 2 * S, 8 * S, 9 * S)
    for stamp_ns in (5 * S, 8_500_000_000):
        bench.image(stamp_ns)
    (frame,) = bench.frames()
    assert frame.stamp_ns == 8_500_000_000 and bench.drops.snapshot() == {"pose_gap": 1}


def test_a_transform_that_is_no_motion_is_a_bad_pose() -> None:
    bench = Bench()
    bench.info()
    for stamp_ns in (1 * S, 3 * S):
        bench.tf.set_transform("a", "cam", stamp_ns, SE3.exp(np.zeros(3), np.array([1.7e308, 0, 0])))
        bench.tf.set_transform("map", "a", stamp_ns, SE3.exp(np.zeros(3), np.array([1.7e308, 0, 0])))
    bench.image(2 * S)
    with np.errstate(over="ignore"):
        assert bench.frames() == [] and bench.drops.snapshot() == {"bad_pose": 1}


def test_an_image_without_frame_name_is_refused_with_what_to_do() -> None:
    bench = Bench()
    bench.info()
    msg = image_msg(np.zeros((12, 16, 3), np.uint8), "rgb8", header_msg(2 * S, ""))
    bench.ingest.put(bench.camera, msg, 0.0, 10)
    assert bench.frames() == [] and "or ros.optical_frame" in bench.problems["bad_image"]


# Several cameras, calibration and depth by stamp ----------------------------------------------------------------


def test_cameras_wait_in_queues_of_their_own_and_problems_are_each_ones_own() -> None:
    bench = Bench()
    bench.info()
    other = CameraInput("back")
    for i in range(5):
        bench.image((2 + i) * S, capacity=2)
    msg = image_msg(np.zeros((12, 16, 3), np.uint8), "rgb8", header_msg(2 * S, "cam"))
    bench.ingest.put(other, msg, 0.0, 2)
    assert [p.stamp_ns for p in bench.ingest.waiting] == [5 * S, 6 * S, 2 * S]
    bench.move(0, 9 * S)
    assert len(bench.frames()) == 2 and bench.problems == {}
    assert "no camera_info of camera 'back'" in other.problems["no_camera_info"].sentence


def test_each_image_takes_the_calibration_of_its_own_stamp() -> None:
    bench, zoomed = Bench(), PinholeCamera(width=16, height=12, fx=40, fy=40, cx=7.5, cy=5.5)
    bench.move(0, 9 * S)
    bench.info(stamp_ns=2 * S)
    bench.info(zoomed, stamp_ns=3 * S)
    bench.image(2 * S)
    bench.image(3 * S)
    assert [f.camera.fx for f in bench.frames()] == [14, 40]
    bench.image(4 * S)
    assert bench.frames(now_s=0.1) == [] and "for stamp 4.000 s has not come" in bench.problems["no_camera_info"]
    bench.info(stamp_ns=4 * S)
    assert [f.camera.fx for f in bench.frames(now_s=0.2)] == [14]
    bench.image(5 * S, now_s=0.3)  # its calibration is lost: after a moment the nearest one serves
    assert bench.frames(now_s=0.4) == [] and [f.camera.fx for f in bench.frames(now_s=0.6)] == [14]
    bench.image(6 * S, now_s=0.7)
    assert len(bench.frames(now_s=0.7)) == 1  # and no further image waits for it


def test_calibration_and_depth_that_were_found_stay_found() -> None:
    bench = Bench()
    bench.info(stamp_ns=2 * S)
    bench.depth(2 * S, 3.0)
    bench.image(2 * S)
    assert bench.frames(DEPTH_CONFIG) == [] and bench.ingest.waiting[0].waits_for == "no_pose"
    for i in range(100):  # newer ones push them out while the frame waits for its transform
        bench.info(PinholeCamera(width=16, height=12, fx=99, fy=99, cx=7.5, cy=5.5), stamp_ns=(3 + i) * S)
        bench.depth((3 + i) * S, 9.0)
    bench.move(0, 9 * S)
    (frame,) = bench.frames(DEPTH_CONFIG)
    assert frame.camera.fx == 14 and frame.depth_m is not None and frame.depth_m[0, 0] == 3.0


def test_approximate_sync_waits_for_the_nearest_depth_and_exact_sync_for_the_same_stamp() -> None:
    bench, exact = Bench(), updated(DEPTH_CONFIG, {"ros.depth_sync": "exact"})
    bench.info()
    bench.move(0, 9 * S)
    bench.depth(2 * S - 15_000_000, 1.0)
    bench.image(2 * S)
    assert bench.frames(DEPTH_CONFIG, now_s=0.1) == []  # a nearer one may come
    bench.depth(2 * S + 5_000_000, 2.0)
    (frame,) = bench.frames(DEPTH_CONFIG, now_s=0.1)
    assert frame.depth_m is not None and frame.depth_m[0, 0] == 2.0
    bench.depth(3 * S - 15_000_000, 4.0)
    bench.image(3 * S)
    (frame,) = bench.frames(DEPTH_CONFIG, now_s=0.3)  # but not for ever
    assert frame.depth_m is not None and frame.depth_m[0, 0] == 4.0
    bench.image(4 * S)
    bench.depth(4 * S + 1, 5.0)
    (frame,) = bench.frames(exact)
    assert frame.depth_m is None and bench.drops.snapshot() == {"frame_without_depth": 1}
    bench.image(5 * S)
    bench.depth(5 * S, 6.0)
    (frame,) = bench.frames(exact)
    assert frame.depth_m is not None and frame.depth_m[0, 0] == 6.0


def test_depth_of_another_rate_finds_its_images() -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)
    frames: list[Frame] = []
    for i in range(60):  # images at 30 Hz, depth at 10 Hz, 3 ms later
        stamp_ns = S + i * S // 30
        bench.image(stamp_ns, now_s=i / 30)
        if i % 3 == 0:
            bench.depth(stamp_ns + 3_000_000, 1.0 + i)
        frames += bench.frames(DEPTH_CONFIG, now_s=i / 30)
    with_depth = [f for f in frames if f.depth_m is not None]
    assert len(with_depth) == 20 and len(frames) >= 57
    for frame in with_depth:
        assert frame.depth_m is not None and frame.depth_m[0, 0] == 1.0 + round((frame.stamp_ns - S) * 30 / S)


def test_depth_that_nobody_sends_holds_no_frame_up() -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)
    bench.image(2 * S, now_s=100.0)
    assert bench.frames(DEPTH_CONFIG, now_s=100.0) == []  # the first depth may come a moment after the first image
    (frame,) = bench.frames(DEPTH_CONFIG, now_s=102.1)
    bench.image(3 * S, now_s=102.2)
    (after,) = bench.frames(DEPTH_CONFIG, now_s=102.2)
    assert frame.depth_m is None and after.depth_m is None and bench.drops.snapshot() == {"frame_without_depth": 2}
    bench.depth(4 * S)
    bench.image(5 * S, now_s=200.0)
    assert bench.frames(DEPTH_CONFIG, now_s=200.0) == []  # after a pause of both


def test_what_belongs_to_the_former_time_goes_and_the_calibration_stays() -> None:
    bench = Bench()
    for stamp_ns in (50 * S, 51 * S):
        bench.info(stamp_ns=stamp_ns)
        bench.depth(stamp_ns)
        bench.image(stamp_ns)
    bench.camera.start_over()
    assert len(bench.camera.lens.infos) == 1 and not bench.camera.depths and bench.camera.stamps.newest_ns == 0


def test_an_absurd_calibration_is_refused_before_anything_is_made_of_it() -> None:
    bench = Bench()
    bench.move(0, 9 * S)
    bench.info(PinholeCamera(width=7000, height=7000, fx=14, fy=14, cx=7.5, cy=5.5))
    bench.camera.lens.infos[-1].d = [0.1] * 5
    bench.image(2 * S)
    assert bench.frames() == [] and "image is 16x12, expected 7000x7000" in bench.problems["bad_image"]
    bench.info(stamp_ns=3 * S)
    bench.camera.lens.infos[-1].d = [1e200, 0.0, 0.0, 0.0, 0.0]
    bench.image(3 * S)
    assert bench.frames() == [] and bench.drops.snapshot() == {"bad_image": 1, "bad_camera_info": 1}
    assert bench.problems["bad_camera_info"]


def test_calibration_is_taken_over_when_it_changes() -> None:
    bench = Bench()
    first, again = (camera_info_msg(CAMERA, header_msg(i, "cam")) for i in (1, 2))
    rectifier = bench.camera.lens.rectifier(first, (16, 12), rectified=False)
    assert bench.camera.lens.rectifier(again, (16, 12), rectified=False) is rectifier
    other = PinholeCamera(width=16, height=12, fx=20, fy=20, cx=7.5, cy=5.5)
    changed = camera_info_msg(other, header_msg(0, "cam"))
    assert bench.camera.lens.rectifier(changed, (16, 12), rectified=False).camera == other


def test_a_frame_that_fails_unexpectedly_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)

    def broken(msg: object) -> None:
        raise RuntimeError("what now")

    monkeypatch.setattr("reconx_ros.io.ingest.frame_queue.rgb_from_msg", broken)
    bench.image(2 * S)
    assert bench.frames() == [] and bench.drops.snapshot() == {"error": 1} and not bench.ingest.waiting
    assert bench.problems["error"] == "a frame failed unexpectedly: RuntimeError: what now"


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
    back = request_from_goal(goal_from_request(request))
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
    back = outcome_from_result(result_from_outcome(outcome, 5, "map"))
    assert back.succeeded and list(back.keyframe_poses) == [7] and len(back.cloud) == 0
    assert back.novel_views[1].depth == b"png" and back.novel_views[1].provenance == b"mask"
    failed = outcome_from_result(result_from_outcome(JobOutcome.failure(ErrorCode.NO_DISK, "full"), 5, "map"))
    assert failed.error_code == ErrorCode.NO_DISK and failed.error_msg == "full" and failed.novel_views == ()


def test_error_codes_are_those_of_the_action() -> None:
    constants = {n: getattr(Reconstruct.Result, n) for n in ErrorCode.__members__}
    assert constants == {n: int(code) for n, code in ErrorCode.__members__.items()}


def test_results_that_disagree_with_themselves_are_refused() -> None:
    result = result_from_outcome(JobOutcome(keyframe_poses={1: SE3.identity()}), 5, "map")
    result.keyframe_ids.append(9)
    with pytest.raises(InvalidInputError, match="keyframe_poses has 1 entries, expected 2"):
        outcome_from_result(result)
    empty = Reconstruct.Result()
    assert outcome_from_result(empty).cloud.points.shape == PointCloud.empty().points.shape


def test_an_image_of_another_size_than_its_calibration_is_a_bad_image() -> None:
    bench = Bench()
    bench.info()
    bench.move(0, 9 * S)
    msg: Image = image_msg(np.zeros((5, 5, 3), np.uint8), "rgb8", header_msg(2 * S, "cam"))
    bench.ingest.put(bench.camera, msg, 0.0, 10)
    assert bench.frames() == [] and bench.drops.snapshot() == {"bad_image": 1}
