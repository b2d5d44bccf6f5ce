"""Where named weights lie on this computer; every setting that takes weights is understood here.

A setting takes a name of the catalogue, a file or folder, or a name on the hub, in this order.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconx_ros.core import WeightsError
from reconx_ros.weights import hub
from reconx_ros.weights.catalogue import WeightsRow, catalogue
from reconx_ros.weights.files import SUFFIXES, Digests, check_files, sha256

FOLDER_VARIABLE = "RECONX_WEIGHTS"
_KINDS = SUFFIXES | {".json", ".txt", ".model", ".yaml"}  # weights; settings, vocabularies
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Weights on this computer.

    Attributes:
        path: a file or a folder.
        row: of the catalogue; None for weights that it does not know.
    """

    path: Path
    row: WeightsRow | None = None

    def files(self) -> tuple[Path, ...]:
        """What belongs to them: weights and descriptions in a folder and the folders in it; beside a file, too."""
        if self.path.is_dir():
            inside = sorted((*self.path.glob("*"), *self.path.glob("*/*")))
            return tuple(p for p in inside if p.suffix in _KINDS and p.is_file() and not _is_hidden(p, self.path))
        if self.path.suffix != ".safetensors":
            return (self.path,)
        beside = (self.path.with_suffix(".json"), self.path.with_name("config.json"))
        return (self.path, *(p for p in beside if p.is_file()))

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self.files())

    def digest(self, digests: Digests) -> str:
        """Digest of all files.

        Raises:
            WeightsError: when a file is not the one that the catalogue knows.
        """
        if self.row is not None and self.row.sha256 is not None:
            check_digest(self.path, self.row.sha256, digests.of(self.path))
        return digests.of_all(self.files())


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def weights_folder() -> Path:
    """Where files of the catalogue are looked for that are on no hub: in a folder of their name."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "reconx_ros" / "weights"


def find(row: WeightsRow) -> WeightsSource | None:
    """Where the weights of a row lie: in the package, the folder of weights or the hub's cache; None for nowhere."""
    if row.path is not None:
        return WeightsSource(path=row.path, row=row) if row.path.is_file() else None
    own = weights_folder() / row.name / row.file
    if own.exists():
        return WeightsSource(path=own, row=row)
    cached = hub.cached(row.hub_id, row.revision) if row.hub_id else None
    if cached is None or not (cached / row.file).exists():
        return None
    return WeightsSource(path=cached / row.file, row=row)


def how_to_get(wanted: WeightsRow | str) -> str:
    """What brings the weights of a row, or of a name of the catalogue, here; the end of a sentence."""
    row = catalogue()[wanted] if isinstance(wanted, str) else wanted
    place = weights_folder() / row.name
    if row.path is not None:
        return f"{row.path.name} belongs to the package and is gone: install reconx_ros again"
    if row.hub_id is None:
        return f"get {row.url} and put it into {place} ({row.terms})"
    part = f" {row.file}" if row.file else ""
    return (
        f"run 'reconx weights fetch {row.name}' where the hub can be reached, or 'hf download {row.hub_id}{part} "
        f"--local-dir DIR' on another computer and bring DIR here as {place} ({row.terms})"
    )


def resolve(
    value: str,
    *,
    setting: str,
    cure: str = "",
    download: tuple[str, ...] = (),
    rows: Mapping[str, WeightsRow] | None = None,
) -> WeightsSource:
    """Find the weights that a setting names.

    Args:
        value: a name of the catalogue, a file or folder, or ``owner/name`` on the hub.
        setting: what it is called, for messages.
        cure: what a user without weights should do, for messages.
        download: patterns of files to get from the hub where they are missing; none asks the local cache only.
        rows: the catalogue; None takes the package's.

    Raises:
        WeightsError: when nothing is named, it is not here, or a file is a pointer, a web page or empty.
    """
    advice = f": {cure}" if cure else ""
    if not value:
        raise WeightsError(f"{setting} is empty, expected weights{advice}")
    rows = catalogue() if rows is None else rows
    path = Path(value).expanduser()
    if value in rows:
        source = find(rows[value])
        if source is None and download and rows[value].hub_id:
            source = WeightsSource(path=fetch(rows[value]), row=rows[value])
        if source is None:
            raise WeightsError(f"{setting} is '{value}', which is not on this computer: {how_to_get(rows[value])}")
    elif path.exists():
        source = WeightsSource(path=path)
    elif _HUB_ID.fullmatch(value):
        source = WeightsSource(path=_from_hub(value, setting, advice, download))
    else:
        near = difflib.get_close_matches(value, rows, n=1)
        hint = f" ('{near[0]}'?)" if near else ""
        raise WeightsError(
            f"{setting} is '{value}', expected a name of the catalogue{hint}, an existing file or folder, or a hub name"
            f"{advice}"
        )
    check_files(source.files())
    return source


def _from_hub(hub_id: str, setting: str, advice: str, download: tuple[str, ...]) -> Path:
    cached = hub.cached(hub_id, None)
    if download:
        return hub.download(hub_id, None, download)
    if cached is None:
        raise WeightsError(
            f"{setting} is '{hub_id}', no file or folder here and not in the hub's cache either: run 'hf download "
            f"{hub_id}' where the hub can be reached{advice}"
        )
    return cached


def fetch(row: WeightsRow) -> Path:
    """Download the weights of a row into the hub's cache, and check them.

    Returns:
        The file, or the folder.

    Raises:
        WeightsError: when they are on no hub, it cannot be reached, or what came is not what the catalogue knows.
        BackendUnavailableError: when the package that downloads is not installed.
    """
    if row.hub_id is None:
        raise WeightsError(f"weights '{row.name}' are on no hub: {how_to_get(row)}")
    try:
        folder = hub.download(row.hub_id, row.revision, (row.file,) if row.file else row.patterns)
    except WeightsError as error:
        raise WeightsError(f"weights '{row.name}' cannot be fetched, {error}: {how_to_get(row)}") from None
    source = WeightsSource(path=folder / row.file, row=row)
    check_files(source.files())
    if row.sha256 is not None:
        check_digest(source.path, row.sha256, sha256(source.path))
    return source.path


def check_digest(path: Path, expected: str, found: str) -> None:
    """Refuse a file with another digest.

    Raises:
        WeightsError: naming the file and both digests.
    """
    if found != expected:
        raise WeightsError(f"weights {path} have the SHA-256 {found}, expected {expected}: get them again")
