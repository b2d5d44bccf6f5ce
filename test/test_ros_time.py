"""Simulated time, bags that start over, clocks that jump or differ, stamps that say nothing; a real node each time."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from reconx_ros.msg import Status
from ros_graph import START_NS, FakeCamera
from ros_robot import Robot, drops
from rosgraph_msgs.msg import Clock

from reconx_ros.ros.conversions import cloud_from_msg, header_msg, ns_from_stamp

S = 1_000_000_000


def test_time_that_jumps_gaps_and_differs_costs_no_map(robot: Robot, camera: FakeCamera) -> None:
    clock = robot.graph.node.create_publisher(Clock, "/clock", 10)

    def tick(stamp_ns: int) -> None:
        clock.publish(Clock(clock=header_msg(stamp_ns, "").stamp))

    robot.start_server()
    robot.start(use_sim_time=True, ros__tf_timeout_s=0.5, ros__retry_s=0.1)
    robot.graph.wait("the clock's subscriber", clock.get_subscription_count)
    camera.ready()
    robot.diagnosed("clock", "nothing has come on /clock")
    tick(START_NS + S)
    camera.walk(4)
    robot.status("a map", lambda s: s.reconstructions == 1 and s.keyframes == 4)
    points = cloud_from_msg(robot.graph.wait("its cloud", lambda: [p for p in robot.points if p.width])[-1])

    # The clock jumps back between the second and the third keyframe.
    back_ns = START_NS + 150_000_000
    tick(back_ns)
    status = robot.status("two keyframes of the past", lambda s: s.keyframes == 2)
    said = "2 keyframes of the future were forgotten, 2 keyframes and the map of 800 points are kept"
    assert said in robot.logged("the clock jumped back by 0.850 s to 1000.150 s")
    robot.diagnosed("clock", said)
    status = robot.status("word of the jump", lambda s: said in s.state_text)
    assert status.points == 800 and status.reconstructions == 1

    # Transforms stop for ten seconds while the camera moves on: no pose is made up for the time between.
    before_ns, within_ns, after_ns = (back_ns + n * S for n in (1, 6, 11))
    tick(before_ns)
    camera.send(camera.pose(5.0), stamp_ns=before_ns)
    robot.status("a keyframe before the gap", lambda s: s.keyframes == 3)
    tick(within_ns)
    camera.send(None, stamp_ns=within_ns)
    robot.dropped("no_pose")
    gap = robot.diagnosed(
        "transforms", "transform from 'cam' to 'map' at 1006.150 s is 5.000 s after the newest sample"
    )
    assert "the buffer holds cam in map (" in gap.message
    tick(after_ns)
    camera.send_tf(camera.pose(8.0), after_ns)
    camera.send(None, stamp_ns=within_ns)
    robot.dropped("pose_gap")
    robot.diagnosed("transforms", "lies in a gap of 10.000 s between two samples (1001.150 s and 1011.150 s)")
    camera.send(camera.pose(8.0), stamp_ns=after_ns)
    robot.status("a keyframe after the gap", lambda s: s.keyframes == 4)

    # A camera whose clock is ahead, and one that does not say when.
    camera.send(None, stamp_ns=after_ns + 30 * S)
    robot.dropped("future_stamp")
    ahead = robot.diagnosed("transforms", "is stamped 1041.150 s, 30.000 s ahead of the simulated clock of this node")
    assert "(1011.150 s): the camera's clock and this one differ" in ahead.message
    camera.send(camera.pose(11.0), stamp_ns=0)
    robot.dropped("zero_stamp")
    robot.diagnosed("mapping", "image of camera '' has stamp zero, its driver leaves header.stamp empty")
    camera.send(camera.pose(11.0), stamp_ns=after_ns + S)
    robot.status("a further keyframe", lambda s: s.keyframes == 5)

    assert robot.process.alive and robot.statuses[-1].points >= 800
    kept = cloud_from_msg([p for p in robot.points if p.width][-1])
    ids = points.keyframe_ids
    assert (kept.points[: len(points)] == points.points).all() and (kept.keyframe_ids[: len(ids)] == ids).all()


def test_a_looped_bag_without_clock_is_noticed_by_its_stamps(robot: Robot, camera: FakeCamera) -> None:
    robot.start()
    camera.ready()
    camera.walk(4)
    robot.status("four keyframes", lambda s: s.keyframes == 4)
    again_ns = START_NS - 60 * S
    camera.send(camera.pose(3.0), stamp_ns=again_ns)  # one old stamp is a fault of its own, the second one a jump
    camera.send(camera.pose(3.0), stamp_ns=again_ns + S // 10)
    robot.logged("stamps of camera '' jumped back by 60.200 s")
    robot.status("the keyframes of the future gone", lambda s: s.keyframes <= 1)
    for i in range(2, 5):
        camera.send(camera.pose(3.0 * i), stamp_ns=again_ns + i * S // 10)
    status = robot.status("keyframes of the new round", lambda s: s.keyframes >= 3)
    assert status.state == Status.COLLECTING
    newest = robot.graph.wait("its message", lambda: [k for k in robot.keyframes if k.id >= 4])[-1]
    assert ns_from_stamp(newest.header.stamp) < START_NS and drops(status).get("pose_too_old", 0) <= 2


def test_images_without_stamps_take_the_time_of_their_arrival_where_asked_to(robot: Robot, camera: FakeCamera) -> None:
    robot.start(ros__zero_stamps="arrival", ros__pose_source="none")
    camera.ready()
    camera.send(None, stamp_ns=0)
    robot.graph.wait("a keyframe", lambda: bool(robot.keyframes))
    assert abs(ns_from_stamp(robot.keyframes[0].header.stamp) / S - time.time()) < 3600
    robot.graph.wait("a status that counts it", lambda: robot.statuses and robot.statuses[-1].keyframes == 1)
    assert "zero_stamp" not in drops(robot.statuses[-1])
