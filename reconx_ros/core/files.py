"""Files and folders that appear complete or not at all; devices, pipes and links stay what they are."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reconx_ros.core.errors import StorageError

_TOKEN_DIGITS = 12


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path whose content becomes that of a file at the end of the block.

    Readers see the old or the new content, never half of it. After an error, which is passed on as it is, the old file
    is untouched and nothing new is left behind. A symbolic link stays, and the file that it names is replaced; mode and
    owner of a file that is replaced are kept. What is no ordinary file (a device, a pipe, /dev/stdout) is written into.

    Raises:
        OSError: when the place is a folder, cannot be written, or the disk is full.
    """
    target = _target(path)
    at_once = _is_replaceable(target)
    beside = target.parent if at_once else Path(tempfile.gettempdir())
    temporary = beside / f".{target.name}.{secrets.token_hex(6)}.part"
    try:
        yield temporary
        if at_once and _takes_the_place_of(temporary, target):
            temporary.replace(target)
        else:
            _pour(temporary, target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, *parts: bytes | memoryview) -> None:
    """Write a file, complete or not at all; see ``whole_file``.

    Raises:
        StorageError: when the place is a folder or not writable, the folder above is missing, or the disk is full.
    """
    path = Path(path)
    try:
        with whole_file(path) as temporary, temporary.open("xb") as file:
            file.writelines(parts)
    except OSError as err:
        raise StorageError(f"{path} cannot be written: {err.strerror}") from err


def write_text(path: Path | str, text: str) -> None:
    """Write a text file as UTF-8, making the folders above it; see ``write_bytes``.

    Raises:
        StorageError: when the place is a folder or not writable, or the disk is full.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"{path} cannot be written: {err.strerror}") from err
    write_bytes(path, text.encode("utf-8"))


def _target(path: Path) -> Path:
    """Where a path leads: the end of its links, except below /dev and /proc, whose links name what is open."""
    while path.is_symlink() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
        path = Path(os.path.normpath(path.parent / path.readlink()))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "a folder of that name is there, a file is to be written", str(path))
    return path


def _is_replaceable(target: Path) -> bool:
    """Whether a new file may take the place of what is there."""
    try:
        return stat.S_ISREG(target.lstat().st_mode)
    except FileNotFoundError:
        return True


def _takes_the_place_of(new: Path, old: Path) -> bool:
    """Give a new file the mode and owner of the old one; False where the system does not let us."""
    try:
        before, mine = old.stat(), new.stat()
    except FileNotFoundError:
        return not old.exists()
    try:
        if (before.st_uid, before.st_gid) != (mine.st_uid, mine.st_gid):
            os.chown(new, before.st_uid, before.st_gid)
        new.chmod(stat.S_IMODE(before.st_mode))
    except PermissionError:
        return False
    return True


def _pour(source: Path, target: Path) -> None:
    """Write a file's content into what is there, which stays what it is; an ordinary file gets it from its start."""
    mode = "r+b" if _is_replaceable(target) else "ab"
    with source.open("rb") as new, target.open(mode) as out:
        shutil.copyfileobj(new, out)
        if mode == "r+b":
            out.truncate()


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder beside a path, which takes the place of what is there in one go at the end of the block.

    Everything is on the disk before the exchange. After an error, which is passed on as it is, the old folder is
    untouched and nothing new is left behind. A process that is killed leaves the old folder or the new one, and
    perhaps hidden folders beside it, which ``restore_folder`` clears away, as the next ``whole_folder`` does.

    A symbolic link stays, and the folder that it names is replaced; the mode of a folder that is replaced is kept.

    Raises:
        OSError: when a file is in the place, or a folder cannot be made, written or renamed.
    """
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file of that name is there, a folder is to be written", str(path))
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
        part.chmod(stat.S_IMODE(path.stat().st_mode))
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
