"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from reconx_ros.core.errors import StorageError

_TOKEN_DIGITS = 12


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside a file, which replaces it in one step at the end of the block.

    Readers see the old or the new content, never half of it. After an error, which is passed on as it is, the old file
    is untouched and nothing new is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all, making the folders above it.

    Raises:
        StorageError: when the place is not writable or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as err:
        raise StorageError(f"{path} cannot be written: {err.strerror}") from None


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside a path, which takes the place of what is there in one go at the end of the block.

    Everything is on the disk before the exchange. After an error, which is passed on as it is, the old folder is
    untouched and nothing new is left behind. A process that is killed leaves the old folder or the new one, and
    perhaps hidden folders beside it, which ``restore_folder`` clears away, as the next ``whole_folder`` does.

    Raises:
        OSError: when a folder cannot be made, written or renamed.
    """
    restore_folder(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_DIGITS // 2)}.part")
    part.mkdir(parents=True)
    try:
        with _locked(part):
            yield part
            for file in part.iterdir():
                _sync(file)
            _sync(part)
            _exchange(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Finish what a killed process left undone beside a folder that it was replacing with ``whole_folder``.

    Does nothing while a living process writes that folder.

    Raises:
        OSError: when the former folder cannot be put back.
    """
    parts = _beside(path, "part")
    if any(_is_locked(part) for part in parts):
        return
    for former in _beside(path, "former"):
        if not path.exists():
            former.rename(path)
    for left in (*parts, *_beside(path, "former")):
        shutil.rmtree(left, ignore_errors=True)


def _beside(path: Path, suffix: str) -> list[Path]:
    pattern = f".{glob.escape(path.name)}.{'[0-9a-f]' * _TOKEN_DIGITS}.{suffix}"
    return [found for found in path.parent.glob(pattern) if found.is_dir()]


def _exchange(part: Path, path: Path) -> None:
    """Between the two steps there is no folder of that name; ``restore_folder`` knows what to do then."""
    former = part.with_suffix(".former")
    if path.exists():
        path.rename(former)
    try:
        part.rename(path)
    except OSError:
        if former.exists():
            former.rename(path)
        raise
    with contextlib.suppress(OSError):  # the exchange is done; not every file system takes this of a folder
        _sync(path.parent)
    shutil.rmtree(former, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock that the system releases when the process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_locked(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
