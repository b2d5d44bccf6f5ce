"""What keeps a robot and a distant server in step: patience, the queue of several robots, packed clouds. No ROS."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconx_ros.core import InvalidInputError, PointCloud
from reconx_ros.jobs.backoff import MAX_BACKOFF_S, Backoff
from reconx_ros.jobs.cloud_codec import MAGIC, packed_cloud, unpacked_cloud
from reconx_ros.jobs.job_queue import JobQueue, Ticket, Turn
from reconx_ros.jobs.link import ASK_AGAIN_S, ODD_SILENCE_S, Advice, JobLink

# The link of a running job --------------------------------------------------------------------------------------


def advised(link: JobLink, now_s: float, *, present: bool = True, silence_s: float = 30.0) -> tuple[Advice, str]:
    return link.advice(now_s, present=present, silence_s=silence_s, stall_s=100.0)


def test_a_job_that_makes_progress_never_times_out() -> None:
    link = JobLink(0.0)
    for now_s in range(1, 10_000, 20):
        link.progress(float(now_s), "splatting", now_s / 10_000, "")
        assert advised(link, now_s + 1.0)[0] is Advice.WAIT
    assert not link.trouble(now_s + 1.0, 30.0)


def test_silence_is_told_once_then_taken_back_or_given_up() -> None:
    link = JobLink(0.0)
    link.progress(1.0, "splatting", 0.5, "step 5")
    assert advised(link, 1.0 + ODD_SILENCE_S)[0] is Advice.WAIT
    advice, words = advised(link, 8.0)
    assert (advice, words) == (
        Advice.TELL_LOST,
        "no word from the reconstruction server for 7 s, the job is kept until 30 s",
    )
    assert advised(link, 9.0)[0] is Advice.WAIT and link.trouble(9.0, 30.0)
    link.progress(20.0, "splatting", 0.5, "step 5")
    assert advised(link, 20.5)[0] is Advice.TELL_BACK and not link.trouble(20.5, 30.0)
    assert advised(link, 51.0) == (Advice.GIVE_UP, "has been silent for 31 s")


def test_a_server_that_repeats_itself_is_given_up_by_lack_of_progress() -> None:
    link = JobLink(0.0)
    for now_s in range(1, 100):
        link.progress(float(now_s), "splatting", 0.5, "step 5")
        assert advised(link, float(now_s))[0] is Advice.WAIT
    link.progress(102.0, "splatting", 0.5, "step 5")
    assert advised(link, 102.0) == (Advice.GIVE_UP, "made no progress in 101 s (splatting, 50 %)")


def test_waiting_for_another_robots_job_is_no_lack_of_progress() -> None:
    link = JobLink(0.0)
    for now_s in range(1, 1000):
        link.progress(float(now_s), "queued", 0.0, "another job is running, this one is next")
        assert advised(link, float(now_s))[0] is Advice.WAIT


def test_the_result_is_asked_for_again_after_the_server_was_gone_and_after_silence() -> None:
    link = JobLink(0.0)
    link.progress(1.0, "splatting", 0.5, "")
    assert not link.should_ask(2.0)
    assert advised(link, 3.0, present=False)[0] is Advice.TELL_LOST
    assert not link.should_ask(3.0), "nobody is there to answer"
    assert link.trouble(3.0, 30.0).startswith("no word from the reconstruction server for 2 s and its action is gone,")
    advised(link, 4.0, present=True)
    assert link.should_ask(4.0) and not link.should_ask(4.1)
    advised(link, 4.0 + ASK_AGAIN_S + 1, present=True)
    assert link.should_ask(4.0 + ASK_AGAIN_S + 1) and not link.should_ask(4.0 + ASK_AGAIN_S + 2)


def test_backoff_doubles_up_to_a_minute_and_can_be_cut_short() -> None:
    backoff = Backoff()
    assert backoff.left_s(0.0) is None and not backoff.due(0.0)
    assert [backoff.failed(0.0, 2.0) for _ in range(7)] == [2, 4, 8, 16, 32, MAX_BACKOFF_S, MAX_BACKOFF_S]
    assert not backoff.due(59.0) and backoff.left_s(59.0) == 1.0
    backoff.hurry(10.0)
    assert backoff.due(10.0) and backoff.failed(10.0, 2.0) == 2.0
    backoff.succeeded()
    backoff.hurry(11.0)
    assert not backoff.waiting and backoff.failed(0.0, 2.0) == 2.0


# Several robots -------------------------------------------------------------------------------------------------


def turn(queue: JobQueue, ticket: Ticket) -> Turn:
    return queue.wait(ticket, lambda: True, lambda: None, 0.001)


def test_robots_take_turns_and_each_keeps_its_place() -> None:
    queue = JobQueue()
    running = queue.enter("a")
    first_b, c = queue.enter("b"), queue.enter("c")
    newer_b = queue.enter("b")
    assert first_b.superseded and not c.superseded and not running.superseded and queue.waiting == 2
    queue.leave(first_b)
    queue.leave(running)
    assert queue.wait(newer_b, lambda: False, lambda: None, 0.001) is Turn.RUN
    assert turn(queue, c) is Turn.CANCELLED
    again = queue.enter("a")
    queue.leave(newer_b)
    assert queue.wait(c, lambda: False, lambda: None, 0.001) is Turn.RUN
    queue.leave(c)
    assert queue.wait(again, lambda: False, lambda: None, 0.001) is Turn.RUN


def test_a_newer_job_of_a_robot_ends_its_running_one_but_not_that_of_the_nameless() -> None:
    queue = JobQueue()
    running, nameless = queue.enter("a"), JobQueue()
    newer = queue.enter("a")
    assert running.superseded and not newer.superseded
    first = nameless.enter()
    nameless.enter()
    assert not first.superseded


# Packed clouds --------------------------------------------------------------------------------------------------


def cloud(count: int) -> PointCloud:
    random = np.random.default_rng(count)
    return PointCloud(
        points=random.normal(size=(count, 3)).astype(np.float32),
        rgb_u8=random.integers(0, 255, (count, 3), np.uint8),
        confidence=random.random(count, np.float32),
        provenance=random.integers(1, 3, count).astype(np.uint8),
        keyframe_ids=random.integers(0, 2**32, count, np.uint32),
    )


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_a_packed_cloud_comes_back_bit_for_bit(count: int) -> None:
    sent = cloud(count)
    got = unpacked_cloud(packed_cloud(sent))
    for name in PointCloud.__dataclass_fields__:
        one, other = getattr(sent, name), getattr(got, name)
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), name


def test_a_cloud_of_a_surface_takes_less_than_half_the_bytes() -> None:
    y, x = np.mgrid[:200, :300]
    depth = 2 + 0.1 * np.sin(x / 40) + 0.001 * y
    count = x.size
    surface = PointCloud(
        points=np.stack([(x - 150) / 250 * depth, (y - 100) / 250 * depth, depth], -1)
        .reshape(-1, 3)
        .astype(np.float32),
        rgb_u8=np.stack([x % 256, y % 256, (x + y) % 256], -1).reshape(-1, 3).astype(np.uint8),
        confidence=np.full(count, 0.9, np.float32),
        provenance=np.ones(count, np.uint8),
        keyframe_ids=np.full(count, 3, np.uint32),
    )
    assert len(packed_cloud(surface)) < 0.5 * 28 * count


def test_packed_clouds_that_lie_are_refused_before_they_cost_memory() -> None:
    good = packed_cloud(cloud(100))
    bomb = MAGIC + struct.pack("<I", 10) + zlib.compress(bytes(50_000_000), 9)
    cases = {
        b"": "starts with , expected",
        b"PK\x03\x04" + good[4:]: "starts with 504b0304",
        MAGIC + struct.pack("<I", 2**32 - 1) + good[8:]: "announces 4294967295 points",
        MAGIC + struct.pack("<I", 99) + good[8:]: "expected 2376 and nothing after",
        good[:-20]: "expected 2400",
        good[:8] + b"xx" + good[10:]: "is damaged",
        bomb: "holds 241 bytes, expected 240",
    }
    for data, words in cases.items():
        with pytest.raises(InvalidInputError, match="packed cloud") as raised:
            unpacked_cloud(data)
        assert words in str(raised.value)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_cloud_get_one_sentence(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^packed cloud [^\n]*$"):
        unpacked_cloud(MAGIC + data)
