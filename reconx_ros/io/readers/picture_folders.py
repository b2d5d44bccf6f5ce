"""Which file is meant, where data sets keep shrunken copies of their pictures in folders of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from reconx_ros.core import InvalidInputError
from reconx_ros.io.images import HEIF_SUFFIXES, IMAGE_SUFFIXES, image_files
from reconx_ros.io.plausible import check_one_file_each
from reconx_ros.io.text import slashed


def picture_paths(folder: Path, names: Sequence[str]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The file of each name: the one of that name, else of that stem, else in sorted order; and notes about it.

    Folders of shrunken copies often hold another format, or, in LLFF's data, other names. Order decides only where none
    of the names is there and there are as many files as names: one lost picture would move all poses behind it.

    Raises:
        StorageError: when the folder cannot be listed.
        InvalidInputError: when two names lead to one file, since they differ only by folder or suffix.
    """
    found = {name: find_picture(folder, name) for name in names}
    there = image_files(folder) if folder.is_dir() else []
    if not any(path.is_file() for path in found.values()) and there and len(there) == len(names):
        note = f"none of the names, such as {names[0]}, is in {folder}: its pictures are taken in sorted order"
        return dict(zip(sorted(names), sorted(there), strict=True)), (note,)
    check_one_file_each(found.items(), f"folder {folder}")
    return found, ()


def find_picture(folder: Path, name: str) -> Path:
    """The file of a name: with the separators of any system, with another suffix, or without folders that are not here.

    The path as written where there is no such file.
    """
    path = folder / slashed(name)
    for place in (path.parent,) if path.parent.is_dir() else (folder,):
        for stem in (path.name, path.stem):
            for end in ("", *_suffixes()):
                if (place / f"{stem}{end}").is_file():
                    return place / f"{stem}{end}"
    return path


@lru_cache(maxsize=1)
def _suffixes() -> tuple[str, ...]:
    """The usual ones first, each in small and in capital letters."""
    usual = (".png", ".jpg", ".jpeg")
    every = (*usual, *sorted((IMAGE_SUFFIXES | HEIF_SUFFIXES) - set(usual)))
    return tuple(form for end in every for form in (end, end.upper()))


def picture_folder(root: Path, wanted: str | None, usual: Sequence[str] = ("images",)) -> Path:
    """The folder asked for, else the first of the usual ones, else the one with the largest copies (images_2 first).

    Raises:
        InvalidInputError: when there is none.
    """
    if wanted is not None:
        if not (root / wanted).is_dir():
            raise InvalidInputError(f"scene {root} has no folder '{wanted}', expected one of its folders of pictures")
        return root / wanted
    for name in usual:
        if (root / name).is_dir():
            return root / name
    copies = {path.name[7:]: path for path in root.glob("images_*") if path.is_dir() and path.name[7:].isdecimal()}
    if copies:
        return copies[min(copies, key=int)]
    raise InvalidInputError(f"scene {root} has no folder of pictures, expected {root / usual[0]}")


def name_in(path: Path, root: Path) -> str:
    """A picture's name: its path relative to the scene where it lies in it."""
    path, root = path.resolve(), root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
