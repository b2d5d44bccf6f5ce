"""Which file is meant, where data sets keep shrunken copies of their pictures in folders of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reconx_ros.core import InvalidInputError
from reconx_ros.io.images import image_files


def picture_paths(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The file of each name: the one of that name, else of that stem, else (as many files as names) in sorted order.

    Folders of shrunken copies often hold another format, or, in LLFF's data, other names.

    Raises:
        StorageError: when the folder cannot be listed.
    """
    exact = {name: folder / name for name in names}
    if all(path.is_file() for path in exact.values()):
        return exact
    there = image_files(folder) if folder.is_dir() else []
    stems = {path.stem: path for path in there}
    if all(Path(name).stem in stems for name in names):
        return {name: stems[Path(name).stem] for name in names}
    if len(there) == len(names):
        return dict(zip(sorted(names), sorted(there), strict=True))
    return exact


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
