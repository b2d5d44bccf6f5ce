"""Bags: whole, cut off, not closed and wrong ones."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bag_maker import START, STEP, rgbd, rosbags

from reconx_ros.core import InvalidInputError, ReconxError, StorageError
from reconx_ros.io.bag_decode import Decoder, stamp_ns
from reconx_ros.io.bags import open_bag

COUNT = 10


def make_bag(path: Path, plugin: str = "mcap", compression: Any = None, count: int = COUNT) -> Path:
    return rgbd(count).write(path, plugin, compression)


@pytest.fixture(params=["mcap", "sqlite3"])
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_bag(tmp_path / "bag", request.param)


def storage_file(bag: Path) -> Path:
    return next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))


def test_topics_and_messages_in_order_of_time(bag: Path) -> None:
    with open_bag(bag) as reader:
        assert reader.topics["/camera/image_raw"].count == COUNT
        assert reader.topics["/tf"].type == "tf2_msgs/msg/TFMessage"
        messages = list(reader.messages())
        assert len(messages) == 4 * COUNT + 1
        assert all(a.stamp_ns <= b.stamp_ns for a, b in itertools.pairwise(messages))
        later = list(reader.messages(["/tf"], start_ns=START + 3 * STEP, stop_ns=START + 6 * STEP))
        assert [m.stamp_ns for m in later] == [START + k * STEP for k in (3, 4, 5)]
        assert {m.topic for m in later} == {"/tf"}
        assert list(reader.messages(["/nothing"])) == []
        assert reader.problem is None


def test_one_storage_file_is_a_bag_too(bag: Path) -> None:
    with open_bag(storage_file(bag)) as reader:
        assert len(list(reader.messages())) == 4 * COUNT + 1


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_bag_cut_in_the_middle_yields_what_is_left(bag: Path, share: float) -> None:
    with open_bag(bag) as reader:
        whole = [(m.topic, m.stamp_ns, m.data) for m in reader.messages()]
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with open_bag(bag) as reader:
        left = [(m.topic, m.stamp_ns, m.data) for m in reader.messages()]
        problem = reader.problem
    assert len(left) > 0.4 * share * len(whole)
    assert set(left) <= set(whole)
    assert len(left) < len(whole) or share > 0.9
    assert problem is not None
    assert f"{len(left)} messages before" in problem
    assert "\n" not in problem


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE", "STORAGE"])
def test_compressed_bags(tmp_path: Path, mode: str) -> None:
    path = make_bag(tmp_path / "bag", compression=rosbags.CompressionMode[mode])
    with open_bag(path) as reader:
        assert len(list(reader.messages())) == 4 * COUNT + 1
        assert reader.problem is None


def test_a_compressed_chunk_is_salvaged_up_to_its_cut(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag", compression=rosbags.CompressionMode.STORAGE, count=60)
    file = storage_file(path)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.8)])
    with open_bag(path) as reader:
        assert 60 < len(list(reader.messages())) < 4 * 60 + 1


def test_without_metadata_the_files_are_read(bag: Path) -> None:
    (bag / "metadata.yaml").unlink()
    with open_bag(bag) as reader:
        assert len(list(reader.messages())) == 4 * COUNT + 1
        assert reader.problem is not None
        assert "no metadata.yaml" in reader.problem


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def wrong_bags() -> dict[str, tuple[Callable[[Path], Path], type[ReconxError], str]]:
    def with_metadata(folder: Path, text: str) -> Path:
        (empty(folder) / "metadata.yaml").write_text(text)
        return folder

    def unknown_compression(folder: Path) -> Path:
        make_bag(folder)
        text = (folder / "metadata.yaml").read_text()
        text = text.replace("compression_format: ''", "compression_format: brotli")
        (folder / "metadata.yaml").write_text(text.replace("compression_mode: ''", "compression_mode: FILE"))
        return folder

    def file(folder: Path, name: str, content: bytes) -> Path:
        (empty(folder) / name).write_bytes(content)
        return folder / name

    return {
        "missing": (lambda p: p / "nothing", StorageError, "does not exist"),
        "not a bag": (empty, InvalidInputError, "is not a ROS 2 bag"),
        "ros 1": (lambda p: file(p, "a.bag", b"#ROSBAG V2.0"), InvalidInputError, "rosbags-convert"),
        "a picture": (lambda p: file(p, "a.jpg", b"x"), InvalidInputError, "is not a ROS 2 bag"),
        "empty mcap": (lambda p: file(p, "a.mcap", b""), StorageError, "cannot be read"),
        "noise mcap": (lambda p: file(p, "a.mcap", b"noise" * 100), StorageError, "cannot be read"),
        "noise db3": (lambda p: file(p, "a.db3", b"noise" * 1000), StorageError, "cannot be read"),
        "empty db3": (lambda p: file(p, "a.db3", b""), StorageError, "cannot be read"),
        "bad yaml": (lambda p: with_metadata(p, "a: [b"), StorageError, "cannot be read"),
        "other yaml": (lambda p: with_metadata(p, "a: 1"), StorageError, "metadata"),
        "compression": (unknown_compression, StorageError, "brotli"),
    }


@pytest.mark.parametrize("kind", wrong_bags())
def test_what_is_no_bag_is_one_sentence(tmp_path: Path, kind: str) -> None:
    make, error, message = wrong_bags()[kind]
    path = make(tmp_path / "bag")
    with pytest.raises(error, match=message) as caught:
        open_bag(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_chunk_compression_is_named(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag", compression=rosbags.CompressionMode.STORAGE)
    file = storage_file(path)
    file.write_bytes(file.read_bytes().replace(b"\x04\x00\x00\x00zstd", b"\x04\x00\x00\x00zzzz"))
    with pytest.raises(StorageError, match="compression 'zzzz'"), open_bag(path) as reader:
        list(reader.messages())


def test_header_stamp_is_read_without_decoding(bag: Path) -> None:
    decode = Decoder()
    with open_bag(bag) as reader:
        for message in reader.messages(["/camera/image_raw", "/camera/camera_info"]):
            stamp = decode(message).header.stamp
            assert stamp_ns(message) == stamp.sec * 10**9 + stamp.nanosec


def test_messages_that_are_not_what_they_say(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag")
    with open_bag(path) as reader:
        message = next(reader.messages(["/camera/image_raw"]))
    object.__setattr__(message, "data", message.data[:20] + struct.pack("<I", 1 << 30))
    with pytest.raises(InvalidInputError, match="cannot be decoded"):
        Decoder()(message)


# Journals -------------------------------------------------------------------------------------------------------


def killed_recording(folder: Path, late: int, *, checkpoint: bool) -> Path:
    """A sqlite3 bag as after SIGKILL of its recorder: the last messages, or all, are in the -wal file."""
    whole = next(make_bag(folder / "whole", "sqlite3").glob("*.db3"))
    with sqlite3.connect(whole) as source:
        tables = [sql for (sql,) in source.execute("select sql from sqlite_master where sql is not null")]
        rows = {
            t: source.execute(f"select * from {t}").fetchall() for t in ("schema", "metadata", "topics", "messages")
        }
    source.close()
    live = sqlite3.connect(folder / "live.db3", isolation_level=None)
    live.execute("PRAGMA journal_mode=WAL")
    live.execute("PRAGMA wal_autocheckpoint=0")
    for sql in tables:
        live.execute(sql)
    early = {**rows, "messages": rows["messages"][:-late]}
    for part in (early, {"messages": rows["messages"][-late:]}):
        for table, content in part.items():
            live.executemany(
                f"insert into {table} values ({','.join('?' * len(content[0]))})" if content else "", content
            )
        if checkpoint and part is early:
            live.execute("PRAGMA wal_checkpoint(FULL)")
    killed = folder / "killed"
    killed.mkdir()
    for end in ("", "-wal"):
        shutil.copyfile(folder / f"live.db3{end}", killed / f"bag_0.db3{end}")
    live.close()
    return killed


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("metadata", [True, False])
def test_messages_in_a_journal_are_read_and_the_bag_stays_as_it_is(
    tmp_path: Path, checkpoint: bool, metadata: bool
) -> None:
    bag = killed_recording(tmp_path, 30, checkpoint=checkpoint)
    if metadata:
        shutil.copyfile(tmp_path / "whole" / "metadata.yaml", bag / "metadata.yaml")
    before = {f.name: f.read_bytes() for f in bag.iterdir()}
    bag.chmod(0o500)
    for path in (bag, bag / "bag_0.db3"):
        with open_bag(path) as reader:
            assert len(list(reader.messages())) == 4 * COUNT + 1
            assert reader.topics["/camera/image_raw"].count == COUNT
            assert reader.span_ns() == (COUNT - 1) * STEP and reader.problem is None
    assert {f.name: f.read_bytes() for f in bag.iterdir()} == before
    bag.chmod(0o700)


def test_a_torn_journal_gives_what_was_committed(tmp_path: Path) -> None:
    bag = killed_recording(tmp_path, 30, checkpoint=True)
    wal = bag / "bag_0.db3-wal"
    wal.write_bytes(wal.read_bytes()[:-100])
    with open_bag(bag) as reader:
        assert 4 * COUNT + 1 - 30 <= len(list(reader.messages())) <= 4 * COUNT + 1
