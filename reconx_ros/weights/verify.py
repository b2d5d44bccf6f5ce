"""Whether the weights of the catalogue are on this computer, and whether they are what the catalogue knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reconx_ros.core import WeightsError
from reconx_ros.weights.catalogue import WeightsRow
from reconx_ros.weights.files import SUFFIXES, check_files, hub_digest, sha256
from reconx_ros.weights.resolve import WeightsSource, check_digest, find, how_to_get

PRESENT, MISSING, DAMAGED = "present", "missing", "damaged"
_SHA256_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class WeightsState:
    """How some weights stand.

    Attributes:
        row: of the catalogue.
        state: "present", "missing" or "damaged".
        path: where they lie; None for missing ones.
        checked: how many files were compared with a known digest.
        message: what is wrong, or how to get them; "" where all is well.
    """

    row: WeightsRow
    state: str
    path: Path | None = None
    checked: int = 0
    message: str = ""


def state_of(row: WeightsRow, *, thorough: bool = False) -> WeightsState:
    """How the weights of a row stand.

    Args:
        row: of the catalogue.
        thorough: read the files whole and compare their SHA-256 with the catalogue's, or with the one that the hub's
            cache keeps; otherwise only their beginning and their size is looked at.
    """
    source = find(row)
    if source is None:
        return WeightsState(row=row, state=MISSING, message=how_to_get(row))
    try:
        check_files(source.files())
        _check_size(source, row)
        checked = _check_digests(source, row) if thorough else 0
    except WeightsError as error:
        return WeightsState(row=row, state=DAMAGED, path=source.path, message=str(error))
    return WeightsState(row=row, state=PRESENT, path=source.path, checked=checked)


def _check_size(source: WeightsSource, row: WeightsRow) -> None:
    found = source.path.stat().st_size
    if row.size_bytes is not None and found != row.size_bytes:
        raise WeightsError(f"weights {source.path} have {found} bytes, expected {row.size_bytes}: get them again")


def _check_digests(source: WeightsSource, row: WeightsRow) -> int:
    checked = 0
    for path in source.files():
        known = row.sha256 if path == source.path else None
        expected = known or hub_digest(path)
        if path.suffix in SUFFIXES and expected is not None and len(expected) == _SHA256_DIGITS:
            check_digest(path, expected, sha256(path))
            checked += 1
    return checked
