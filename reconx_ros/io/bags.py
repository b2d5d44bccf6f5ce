"""ROS 2 bags without ROS: topics and raw messages of sqlite3 and MCAP bags, whole or broken.

A robot whose power was cut leaves a bag without its end. Such a bag yields everything that can still be read, in time
order, and ``BagReader.problem`` then says in one sentence what is missing. A bag that cannot be read at all is an
error. Nothing is ever written beside a bag: what SQLite left in a journal (``.db3-wal``) is settled in a copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from reconx_ros.core import InvalidInputError, ReconxError, StorageError
from reconx_ros.io.bag_messages import BagMessage, BagTopic

STORAGE_SUFFIXES = (".mcap", ".db3")


class Storage(Protocol):
    """Where messages come from: a whole bag, or one broken file of it."""

    def topics(self) -> list[BagTopic]:
        """The topics."""
        ...

    def messages(self, topics: Collection[str] | None) -> Iterator[BagMessage]:
        """Messages in time order; ``problem`` is set when they end early."""
        ...

    def ends_ns(self) -> tuple[int, int] | None:
        """When the first and the last message were recorded; None without a message."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...

    @property
    def problem(self) -> str | None:
        """What could not be read, as one sentence."""
        ...


class BagReader:
    """An open bag; make it with ``open_bag`` and use it in a ``with`` block.

    Attributes:
        path: the bag's folder or file.
        topics: what it holds, by name.
    """

    def __init__(self, path: Path, storages: list[Storage], problem: str | None = None) -> None:
        self.path = path
        self._storages = storages
        self._problem = problem
        self.topics = _merged(storages)

    @property
    def problem(self) -> str | None:
        """What could not be read so far, as one sentence; None while all went well. Final after the last message."""
        found = [s.problem for s in self._storages if s.problem]
        return found[0] if found else self._problem

    def messages(
        self, topics: Collection[str] | None = None, *, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Raw messages in order of their recording.

        Args:
            topics: only these; None for all.
            start_ns, stop_ns: only messages recorded in [start, stop).

        Raises:
            StorageError: for a compression that cannot be read.
        """
        for storage in self._storages:
            for message in storage.messages(topics):
                too_early = start_ns is not None and message.stamp_ns < start_ns
                if not too_early and (stop_ns is None or message.stamp_ns < stop_ns):
                    yield message

    def span_ns(self) -> int:
        """Time between the first and the last message, nanoseconds; 0 for fewer than two."""
        ends = [end for storage in self._storages if (end := storage.ends_ns()) is not None]
        return max(last for _, last in ends) - min(first for first, _ in ends) if ends else 0

    def close(self) -> None:
        """Release the files."""
        for storage in self._storages:
            storage.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_bag(path: Path | str) -> BagReader:
    """Open a ROS 2 bag: its folder, or one .mcap or .db3 file.

    A folder without metadata.yaml is read file by file. A file without its end is read as far as it goes.

    Raises:
        StorageError: when it is missing, or no part of it can be read.
        InvalidInputError: when it is not a ROS 2 bag.
    """
    from reconx_ros.io.bag_journal import has_journal

    path = Path(path)
    if not path.exists():
        raise StorageError(f"bag {path} does not exist")
    files = _storage_files(path)
    if any(has_journal(file) for file in files):  # metadata.yaml, if any, does not count what is in there
        return BagReader(path, [_open_file(file) for file in files])
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        problem = f"bag {path} has no metadata.yaml, as after a recording that was cut off; its files are read directly"
        return BagReader(path, [_open_file(file) for file in files], problem)
    try:
        return BagReader(path, [_WholeBag(path)])
    except ReconxError:
        if not files or _is_compressed(path):
            raise
    return BagReader(path, [_open_file(file) for file in files])


class _WholeBag:
    """A bag that rosbags opens."""

    def __init__(self, path: Path) -> None:
        from rosbags.rosbag2 import Reader

        from reconx_ros.io.bag_salvage import partial_page_bytes

        self._path = path
        self.problem: str | None = None
        for file in [path] if path.is_file() else path.glob("*.db3"):
            if partial_page_bytes(file):
                raise StorageError(f"bag {file} cannot be read: it ends within a page")
        try:
            self._reader: Any = Reader(path)
            self._reader.open()
        except Exception as err:  # rosbags lets errors of its decoders through
            raise _unreadable(path, err) from err

    def topics(self) -> list[BagTopic]:
        return [BagTopic(name=c.topic, type=c.msgtype, count=c.msgcount) for c in self._reader.connections]

    def messages(self, topics: Collection[str] | None) -> Iterator[BagMessage]:
        wanted = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not wanted:
            return
        count, stream = 0, self._reader.messages(wanted)
        while True:
            try:
                connection, stamp_ns, data = next(stream)
            except StopIteration:
                return
            except Exception as err:  # rosbags lets errors of its decoders through
                if "ompression" in str(err):
                    raise _unreadable(self._path, err) from err
                self.problem = f"bag {self._path} is damaged after {count} messages: {_sentence(err)}"
                return
            count += 1
            yield BagMessage(topic=connection.topic, type=connection.msgtype, stamp_ns=stamp_ns, data=bytes(data))

    def ends_ns(self) -> tuple[int, int] | None:
        return (self._reader.start_time, self._reader.end_time - 1) if self._reader.message_count else None

    def close(self) -> None:
        if self._reader.is_open:
            self._reader.close()


def _open_file(path: Path) -> Storage:
    """One storage file: whole where possible, else what is left of it."""
    from reconx_ros.io.bag_journal import SettledBag, has_journal

    return SettledBag(path, _open_plain_file) if has_journal(path) else _open_plain_file(path)


def _open_plain_file(path: Path) -> Storage:
    from reconx_ros.io.bag_salvage import SalvagedMcap, SalvagedSqlite

    try:
        return _WholeBag(path)
    except ReconxError as err:
        salvaged = SalvagedMcap(path) if path.suffix == ".mcap" else SalvagedSqlite(path)
        if not any(topic.count for topic in salvaged.topics()):
            salvaged.close()
            raise err from None
        return salvaged


def _storage_files(path: Path) -> list[Path]:
    from reconx_ros.io.images import natural_order

    if path.is_dir():
        files = sorted((f for f in path.iterdir() if f.suffix in STORAGE_SUFFIXES), key=natural_order)
        if not files and not (path / "metadata.yaml").is_file():
            raise InvalidInputError(f"folder {path} is not a ROS 2 bag: it holds no metadata.yaml, .mcap or .db3 file")
        return files
    if path.suffix == ".bag":
        raise InvalidInputError(f"bag {path} is of ROS 1, expected ROS 2: convert it with rosbags-convert")
    if path.suffix not in STORAGE_SUFFIXES:
        raise InvalidInputError(f"file {path} is not a ROS 2 bag, expected a folder or a file ending in .mcap or .db3")
    return [path]


def _is_compressed(path: Path) -> bool:
    """Whether metadata.yaml speaks of a compression by rosbag2, which a file alone cannot be read without."""
    import yaml

    if not path.is_dir():
        return False
    try:
        document = yaml.safe_load((path / "metadata.yaml").read_text(encoding="utf-8"))
        return bool(document["rosbag2_bagfile_information"].get("compression_format"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False


def _merged(storages: list[Storage]) -> dict[str, BagTopic]:
    merged: dict[str, BagTopic] = {}
    for topic in (t for storage in storages for t in storage.topics()):
        count = topic.count + (merged[topic.name].count if topic.name in merged else 0)
        merged[topic.name] = BagTopic(name=topic.name, type=topic.type, count=count)
    return merged


def _unreadable(path: Path, err: Exception) -> StorageError:
    return StorageError(f"bag {path} cannot be read: {_sentence(err)}")


def _sentence(err: Exception) -> str:
    text = " ".join(str(err).split()) or type(err).__name__
    return text.rstrip(".")
