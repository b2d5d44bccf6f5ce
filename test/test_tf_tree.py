"""Laws of the transform buffer: those of tf2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.geometry.tf_tree import (
    FutureExtrapolationError,
    GapError,
    NotConnectedError,
    PastExtrapolationError,
    TransformBuffer,
    UnknownFrameError,
)

S = 1_000_000_000
numbers = st.floats(-3, 3, allow_nan=False)
poses = st.builds(
    lambda r, t: SE3.exp(np.array(r), np.array(t)),
    st.tuples(numbers, numbers, numbers),
    st.tuples(numbers, numbers, numbers),
)


def close(a: SE3, b: SE3) -> bool:
    return bool(np.allclose(a.matrix, b.matrix, atol=1e-6))


def shift(x: float) -> SE3:
    return SE3(rotation=np.eye(3), translation=np.array([x, 0.0, 0.0]))


def robot() -> TransformBuffer:
    buffer = TransformBuffer()
    for k in range(5):
        buffer.set_transform("map", "odom", k * S, shift(0.1 * k))
        buffer.set_transform("odom", "base", k * S, shift(k))
    buffer.set_transform("base", "camera", 0, shift(0.5), static=True)
    buffer.set_transform("base", "lidar", 0, shift(-0.5), static=True)
    return buffer


@given(poses, poses, poses)
def test_lookup_composes_inverts_and_chains(a: SE3, b: SE3, c: SE3) -> None:
    buffer = TransformBuffer()
    buffer.set_transform("map", "base", S, a)
    buffer.set_transform("base", "camera", 0, b, static=True)
    buffer.set_transform("base", "lidar", 0, c, static=True)
    assert close(buffer.lookup("map", "camera", S), a @ b)
    assert close(buffer.lookup("camera", "map", S), buffer.lookup("map", "camera", S).inverse())
    through = buffer.lookup("camera", "map", S) @ buffer.lookup("map", "lidar", S)
    assert close(buffer.lookup("camera", "lidar", S), through)
    assert close(buffer.lookup("base", "base", S), SE3.identity())


@given(poses, poses, st.floats(0, 1))
def test_between_samples_translation_is_linear_and_rotation_slerp(a: SE3, b: SE3, fraction: float) -> None:
    buffer = TransformBuffer()
    buffer.set_transform("map", "base", S, a)
    buffer.set_transform("map", "base", 2 * S, b)
    stamp = S + round(fraction * S)
    got = buffer.lookup("map", "base", stamp)
    u = (stamp - S) / S
    assert np.allclose(got.translation, (1 - u) * a.translation + u * b.translation, atol=1e-9)
    assert got.angle_to(a) == pytest.approx(u * b.angle_to(a), abs=1e-5)
    assert got.angle_to(b) == pytest.approx((1 - u) * b.angle_to(a), abs=1e-5)


@given(st.permutations(range(8)))
def test_order_of_arrival_does_not_matter(order: list[int]) -> None:
    buffer = TransformBuffer()
    for k in order:
        buffer.set_transform("map", "base", k * S, shift(k * k))
    assert buffer.lookup("map", "base", 5 * S // 2).translation[0] == pytest.approx(0.5 * (4 + 9))
    assert buffer.range_ns("base") == (0, 7 * S)


def test_nothing_is_extrapolated() -> None:
    buffer = robot()
    with pytest.raises(FutureExtrapolationError, match=r"1\.000 s after the newest") as future:
        buffer.lookup("map", "camera", 5 * S)
    assert (future.value.requested_ns, future.value.oldest_ns, future.value.newest_ns) == (5 * S, 0, 4 * S)
    with pytest.raises(PastExtrapolationError, match=r"0\.500 s before the oldest"):
        buffer.lookup("map", "camera", -S // 2)
    assert not buffer.can_transform("map", "camera", 5 * S)
    assert buffer.can_transform("map", "camera", 4 * S)


def test_a_single_sample_holds_only_at_its_own_stamp() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("map", "base", 3 * S, shift(1))
    assert buffer.can_transform("map", "base", 3 * S)
    assert not buffer.can_transform("map", "base", 3 * S + 1)
    assert not buffer.can_transform("map", "base", 3 * S - 1)


def test_only_edges_between_the_two_frames_count() -> None:
    buffer = robot()
    assert buffer.lookup("camera", "lidar", 100 * S).translation[0] == pytest.approx(-1.0)
    buffer.set_transform("odom", "base", 9 * S, shift(9))
    assert buffer.lookup("odom", "camera", 8 * S).translation[0] == pytest.approx(8.5)


def test_latest_is_the_newest_common_stamp() -> None:
    buffer = robot()
    buffer.set_transform("odom", "base", 9 * S, shift(9))
    assert buffer.latest_common_ns("map", "camera") == 4 * S
    assert buffer.lookup("map", "camera").translation[0] == pytest.approx(0.4 + 4 + 0.5)
    assert buffer.latest_common_ns("camera", "lidar") is None
    assert buffer.lookup("camera", "lidar").translation[0] == pytest.approx(-1.0)


def test_unknown_and_unconnected_frames_are_named() -> None:
    buffer = robot()
    buffer.set_transform("world2", "arm", 0, shift(0), static=True)
    with pytest.raises(UnknownFrameError, match="'nowhere'"):
        buffer.lookup("map", "nowhere", S)
    with pytest.raises(UnknownFrameError, match="'nowhere'"):
        buffer.lookup("nowhere", "nowhere", S)
    with pytest.raises(NotConnectedError, match=r"'map' and 'arm' are not connected.*'map'.*'world2'"):
        buffer.lookup("map", "arm", S)
    with pytest.raises(NotConnectedError):
        buffer.latest_common_ns("map", "arm")


def test_history_is_bounded_per_frame() -> None:
    buffer = TransformBuffer(history_ns=2 * S)
    for k in range(6):
        buffer.set_transform("map", "base", k * S, shift(k))
    assert buffer.range_ns("base") == (3 * S, 5 * S)
    assert not buffer.set_transform("map", "base", S, shift(1))
    assert buffer.range_ns("base") == (3 * S, 5 * S)
    assert buffer.set_transform("map", "base", 3 * S + 1, shift(3))


def test_a_repeated_stamp_and_a_repeated_static_replace() -> None:
    buffer = robot()
    buffer.set_transform("odom", "base", 4 * S, shift(40))
    assert buffer.lookup("odom", "base", 4 * S).translation[0] == pytest.approx(40)
    buffer.set_transform("base", "camera", 0, shift(7), static=True)
    assert buffer.lookup("base", "camera", 0).translation[0] == pytest.approx(7)


def test_a_frame_that_changes_its_parent_holds_the_older_sample() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("map", "hand", 0, shift(0), static=True)
    buffer.set_transform("map", "cup", S, shift(1))
    buffer.set_transform("hand", "cup", 3 * S, shift(5))
    assert buffer.lookup("map", "cup", 2 * S).translation[0] == pytest.approx(1)
    assert buffer.lookup("map", "cup", 3 * S).translation[0] == pytest.approx(5)
    assert buffer.parent_frame("cup") == "hand"


def test_a_circle_is_reported_not_walked_forever() -> None:
    buffer = TransformBuffer()
    buffer.set_transform("a", "b", 0, shift(1), static=True)
    buffer.set_transform("b", "a", 0, shift(1), static=True)
    buffer.set_transform("c", "d", 0, shift(1), static=True)
    with pytest.raises(NotConnectedError, match="circle"):
        buffer.lookup("c", "a", 0)


def test_bad_names_are_refused_and_leading_slashes_dropped() -> None:
    buffer = TransformBuffer()
    with pytest.raises(InvalidInputError, match="itself"):
        buffer.set_transform("base", "/base", 0, shift(0))
    with pytest.raises(InvalidInputError, match="name"):
        buffer.set_transform("", "base", 0, shift(0))
    with pytest.raises(InvalidInputError, match="history"):
        TransformBuffer(history_ns=0)
    buffer.set_transform("/map", "/base", S, shift(2))
    assert buffer.lookup("/map", "base", S).translation[0] == 2
    assert buffer.frames() == ("base", "map")


def test_clear_keeps_static_transforms() -> None:
    buffer = robot()
    buffer.clear()
    assert buffer.can_transform("base", "camera", S)
    assert "odom" not in buffer.frames()
    assert buffer.parent_frame("camera") == "base"
    assert buffer.parent_frame("base") is None


def test_a_long_gap_is_bridged_only_where_the_frame_stood_still() -> None:
    buffer = TransformBuffer(max_gap_ns=2_000_000_000)
    for second, x in ((0, 0.0), (5, 0.01), (6, 1.0), (9, 4.0)):
        buffer.set_transform("map", "base", second * 10**9, SE3.exp(np.zeros(3), np.array([x, 0.0, 0.0])))
    assert buffer.lookup("map", "base", 2_500_000_000).translation[0] == pytest.approx(0.005)
    assert buffer.lookup("map", "base", 5_500_000_000).translation[0] == pytest.approx(0.505)
    with pytest.raises(GapError, match=r"at 7\.000 s lies in a gap of 3\.000 s between two samples \(6\.000 s and"):
        buffer.lookup("map", "base", 7_000_000_000)
    assert buffer.lookup("map", "base", 9_000_000_000).translation[0] == 4.0
    buffer.set_transform("base", "cam", 0, SE3.identity(), static=True)
    assert buffer.can_transform("base", "cam", 7_000_000_000)  # the gap lies above both
    with pytest.raises(InvalidInputError, match="longest transform gap is 0 ns"):
        TransformBuffer(max_gap_ns=0)
