"""Whether a file is weights at all, and its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from reconx_ros.core import WeightsError

SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".ckpt", ".bin"})
_POINTER = b"version https://git-lfs"
_PAGES = (b"<!doctype html", b"<html")
_HEAD_BYTES = 512
_CHUNK_BYTES = 1 << 22
_CONTENT_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # git's digest of a small file, SHA-256 of a large one


def check_file(path: Path) -> None:
    """Refuse what lies in the place of weights after a download that went wrong.

    Raises:
        WeightsError: when the file is missing, unreadable, empty, a Git LFS pointer or a web page; the sentence has the
            cure.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from None
    if not head:
        raise WeightsError(f"weights {path} are an empty file, expected a complete one: get them again")
    if head.startswith(_POINTER):
        raise WeightsError(
            f"weights {path} are a Git LFS pointer of {path.stat().st_size} bytes, expected the file that it stands "
            "for: run 'git lfs pull' in that folder"
        )
    if head.lstrip().lower().startswith(_PAGES):
        raise WeightsError(
            f"weights {path} are a web page, expected the file that was to be downloaded: get it again with "
            "'hf download', signed in where its licence has to be accepted"
        )


def check_files(paths: Iterable[Path]) -> None:
    """``check_file`` for those of some files that hold weights."""
    for path in paths:
        if path.suffix in SUFFIXES:
            check_file(path)


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal digits.

    Raises:
        WeightsError: when it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def hub_digest(path: Path) -> str | None:
    """The digest by which the hub's cache calls a file; None for files elsewhere."""
    target = path.resolve()
    return target.name if target.parent.name == "blobs" and _CONTENT_NAME.fullmatch(target.name) else None


class Digests:
    """Digests of files, computed once for a path, size and time of change."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[int, int], str]] = {}

    def of(self, path: Path) -> str:
        """The digest of a file; in the hub's cache, which names files by their content, the one in its name.

        Raises:
            WeightsError: when the file cannot be read.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from None
        identity = (status.st_size, status.st_mtime_ns)
        known = self._known.get(path)
        if known is None or known[0] != identity:
            known = (identity, hub_digest(path) or sha256(path))
            self._known[path] = known
        return known[1]

    def of_all(self, paths: Iterable[Path]) -> str:
        """One digest for several files; of a single file it is that file's own."""
        found = [(path.name, self.of(path)) for path in paths]
        if len(found) == 1:
            return found[0][1]
        return hashlib.sha256("\n".join(f"{name} {digest}" for name, digest in found).encode()).hexdigest()
