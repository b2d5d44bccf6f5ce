"""What can still be read of a bag file whose end is missing or damaged.

MCAP (https://mcap.dev/spec) is a sequence of records, so that it is read from the front until the first record that is
not whole; of a chunk cut in the middle, the messages before the cut are kept. A sqlite3 file is read by rising row
until the first page that is missing, with the check of the file's size switched off.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import shutil
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from reconx_ros.core import StorageError
from reconx_ros.io.bag_messages import BagMessage, BagTopic

_MCAP_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 0x03, 0x04, 0x05, 0x06
_DATA_END = 0x0F
_PIECE = 1 << 16


class SalvagedMcap:
    """The readable front of a broken .mcap file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: Counter[tuple[str, str]] = Counter()
        self._counts.update((m.topic, m.type) for m in self.messages(None))
        total = sum(self._counts.values())
        self.problem: str | None = f"bag {path} is damaged or cut off: {total} messages before the damage were read"

    def topics(self) -> list[BagTopic]:
        """The topics of the readable messages."""
        return [BagTopic(name=name, type=kind, count=n) for (name, kind), n in self._counts.items()]

    def messages(self, topics: Collection[str] | None) -> Iterator[BagMessage]:
        """Readable messages, in time order within each chunk; chunks as they were written."""
        try:
            with self._path.open("rb") as file:
                for message in _mcap_messages(file):
                    if topics is None or message.topic in topics:
                        yield message
        except OSError as err:
            raise StorageError(f"bag {self._path} cannot be read: {err.strerror or err}") from err

    def ends_ns(self) -> tuple[int, int] | None:
        """When the first and the last readable message were recorded."""
        return ends_ns(self.messages(None))

    def close(self) -> None:
        """Nothing is held open."""


class SalvagedSqlite:
    """The readable front of a broken .db3 file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = tempfile.TemporaryDirectory(prefix="reconx_bag_")
        readable = _whole_pages(path, self._temporary.name)
        self._connection = sqlite3.connect(f"file:{quote(str(readable))}?mode=ro&immutable=1", uri=True)
        self._topics: dict[int, tuple[str, str]] = {}
        self._counts: Counter[int] = Counter()
        try:
            self._connection.execute("PRAGMA writable_schema=ON")  # opens a file that is shorter than its header says
            self._topics = {i: (n, t) for i, n, t in self._connection.execute("SELECT id, name, type FROM topics")}
        except sqlite3.Error as err:
            self.close()
            raise StorageError(f"bag {path} cannot be read: {err}") from err
        self._counts.update(topic_id for topic_id, _, _ in self._rows())
        total = sum(self._counts.values())
        self.problem: str | None = f"bag {path} is damaged or cut off: {total} messages before the damage were read"

    def topics(self) -> list[BagTopic]:
        """The topics, with the number of readable messages."""
        return [BagTopic(name=n, type=t, count=self._counts[i]) for i, (n, t) in self._topics.items()]

    def messages(self, topics: Collection[str] | None) -> Iterator[BagMessage]:
        """Readable messages, in the order in which they were recorded."""
        for topic_id, stamp_ns, data in self._rows():
            name, kind = self._topics.get(topic_id, ("", ""))
            if name and (topics is None or name in topics):
                yield BagMessage(topic=name, type=kind, stamp_ns=stamp_ns, data=bytes(data))

    def ends_ns(self) -> tuple[int, int] | None:
        """When the first and the last readable message were recorded."""
        return ends_ns(self.messages(None))

    def close(self) -> None:
        """Close the database."""
        self._connection.close()
        self._temporary.cleanup()

    def _rows(self) -> Iterator[tuple[int, int, Any]]:
        """Rows up to the first that cannot be read."""
        query = "SELECT topic_id, timestamp, data FROM messages NOT INDEXED ORDER BY id"
        with contextlib.suppress(sqlite3.Error):
            yield from self._connection.execute(query)


def ends_ns(messages: Iterator[BagMessage]) -> tuple[int, int] | None:
    """Earliest and latest time of recording; None without a message."""
    stamps = [message.stamp_ns for message in messages]
    return (min(stamps), max(stamps)) if stamps else None


def partial_page_bytes(path: Path) -> int:
    """How many bytes of a sqlite3 file lie behind its last whole page; 0 for a file that is no database.

    SQLite fills up such a page with zeros and reports no error, so that a message would silently end in zeros. Bytes 16
    and 17 of the file hold the page size (https://www.sqlite.org/fileformat2.html).

    Raises:
        StorageError: when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(18)
        if len(head) < 18 or not head.startswith(b"SQLite format 3"):
            return 0
        (size,) = struct.unpack_from(">H", head, 16)
        return path.stat().st_size % (65536 if size == 1 else max(size, 512))
    except OSError as err:
        raise StorageError(f"bag {path} cannot be read: {err.strerror or err}") from err


def _whole_pages(path: Path, folder: str) -> Path:
    """The file itself, or where it ends within a page, a copy in ``folder`` without that page."""
    surplus = partial_page_bytes(path)
    if not surplus:
        return path
    target = Path(folder) / "whole_pages.db3"
    try:
        shutil.copyfile(path, target)
        os.truncate(target, path.stat().st_size - surplus)
    except OSError as err:
        raise StorageError(f"bag {path} cannot be copied to {folder}: {err.strerror or err}") from err
    return target


def _mcap_messages(file: BinaryIO) -> Iterator[BagMessage]:
    """All messages up to the first record that is not whole."""
    if file.read(len(_MCAP_MAGIC)) != _MCAP_MAGIC:
        return
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    for kind, body in _records(file):
        if kind == _DATA_END:
            return
        if kind == _CHUNK:
            yield from _chunk_messages(body, schemas, channels)
        else:
            yield from _message(kind, body, schemas, channels)


def _chunk_messages(body: bytes, schemas: dict[int, str], channels: dict[int, tuple[str, str]]) -> Iterator[BagMessage]:
    found: list[BagMessage] = []
    for kind, record in _records(io.BytesIO(_chunk_content(body))):
        found.extend(_message(kind, record, schemas, channels))
    yield from sorted(found, key=lambda message: message.stamp_ns)


def _message(
    kind: int, body: bytes, schemas: dict[int, str], channels: dict[int, tuple[str, str]]
) -> Iterator[BagMessage]:
    """The message in a record, if it is one that is whole; schemas and channels are taken note of."""
    try:
        if kind == _SCHEMA:
            schemas[struct.unpack_from("<H", body)[0]] = _text(body, 2)[0]
        elif kind == _CHANNEL:
            number, schema = struct.unpack_from("<HH", body)
            channels[number] = (_text(body, 4)[0], schemas.get(schema, ""))
        elif kind == _MESSAGE:
            number, _, stamp_ns, _ = struct.unpack_from("<HIQQ", body)
            if number in channels:
                topic, name = channels[number]
                yield BagMessage(topic=topic, type=name, stamp_ns=stamp_ns, data=body[22:])
    except (struct.error, UnicodeDecodeError):
        return


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(opcode, body) of each whole record, and of a chunk that is cut off."""
    while len(head := file.read(9)) == 9:
        kind, size = struct.unpack("<BQ", head)
        body = _read_up_to(file, size)
        if len(body) == size or kind == _CHUNK:
            yield kind, body
        if len(body) < size:
            return


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    here = file.tell()
    left = file.seek(0, io.SEEK_END) - here
    file.seek(here)
    return file.read(min(size, left))


def _chunk_content(body: bytes) -> bytes:
    """Uncompressed records of a chunk, as far as they can be read."""
    try:
        compression, offset = _text(body, 28)
    except (struct.error, UnicodeDecodeError):
        return b""
    data = body[offset + 8 :]
    if not compression:
        return data
    decompressor = _decompressor(compression)
    return b"".join(_decompressed(decompressor, data))


def _decompressed(decompressor: Any, data: bytes) -> Iterator[bytes]:
    """What a decompressor gives until its data end or are damaged."""
    for start in range(0, len(data), _PIECE):
        try:
            yield decompressor.decompress(data[start : start + _PIECE])
        except Exception:  # each library has its own error for damaged data
            return


def _decompressor(compression: str) -> Any:
    """An incremental decompressor of one of the compressions that MCAP knows.

    Raises:
        StorageError: for another one.
    """
    modules = {"lz4": ("lz4.frame",), "zstd": ("compression.zstd", "backports.zstd", "zstandard")}
    for name in modules.get(compression, ()):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            continue
        module = importlib.import_module(name)
        if name == "zstandard":
            return module.ZstdDecompressor().decompressobj()
        return module.LZ4FrameDecompressor() if compression == "lz4" else module.ZstdDecompressor()
    raise StorageError(f"bag has chunks with compression '{compression}', expected zstd or lz4 and its Python package")


def _text(body: bytes, offset: int) -> tuple[str, int]:
    """A length-prefixed string at an offset, and the offset behind it."""
    (size,) = struct.unpack_from("<I", body, offset)
    end = offset + 4 + size
    if end > len(body):
        raise struct.error("string is cut off")
    return body[offset + 4 : end].decode("utf-8"), end
