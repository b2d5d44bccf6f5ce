"""Messages that SQLite left beside a .db3 file: in ``-wal`` after a recording was killed, or to undo in ``-journal``.

SQLite would write into the recording to settle them, so that this is done in a copy. See https://sqlite.org/wal.html
and https://sqlite.org/tempfiles.html.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reconx_ros.core import StorageError
from reconx_ros.io.bag_messages import BagMessage, BagTopic

if TYPE_CHECKING:
    from reconx_ros.io.bags import Storage

_JOURNALS = ("-wal", "-journal")


def has_journal(path: Path) -> bool:
    """Whether a .db3 file has messages beside it that are not settled."""
    return path.suffix == ".db3" and any(_size(_beside(path, end)) for end in _JOURNALS)


class SettledBag:
    """A .db3 file with what lies in its journal, read from a copy that is removed when the bag is closed.

    Args:
        path: the file; it and its folder stay as they are.
        open_file: opens the settled copy.

    Raises:
        StorageError: when it cannot be copied or read.
    """

    def __init__(self, path: Path, open_file: Callable[[Path], Storage]) -> None:
        self._path = path
        self._folder = tempfile.TemporaryDirectory(prefix="reconx_bag_")
        self._copy = Path(self._folder.name) / path.name
        try:
            _copy_with_journals(path, self._copy)
            _settle(self._copy)
            self._storage = open_file(self._copy)
        except StorageError as err:
            self._folder.cleanup()
            raise StorageError(str(err).replace(str(self._copy), str(path))) from None

    @property
    def problem(self) -> str | None:
        """What could not be read, as one sentence."""
        problem = self._storage.problem
        return None if problem is None else problem.replace(str(self._copy), str(self._path))

    def topics(self) -> list[BagTopic]:
        """The topics."""
        return self._storage.topics()

    def messages(self, topics: Collection[str] | None) -> Iterator[BagMessage]:
        """Messages in time order."""
        return self._storage.messages(topics)

    def ends_ns(self) -> tuple[int, int] | None:
        """When the first and the last message were recorded."""
        return self._storage.ends_ns()

    def close(self) -> None:
        """Release and remove the copy."""
        self._storage.close()
        self._folder.cleanup()


def _copy_with_journals(path: Path, copy: Path) -> None:
    try:
        for end in ("", *_JOURNALS):
            if not end or _size(_beside(path, end)):
                shutil.copyfile(_beside(path, end), _beside(copy, end))
    except OSError as err:
        raise StorageError(f"bag {path} cannot be copied to {copy.parent}: {err.strerror or err}") from err


def _settle(path: Path) -> None:
    """Take over the journal; what cannot be is left to those who read a broken file."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA journal_mode=DELETE").fetchall()


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
