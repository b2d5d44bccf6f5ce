"""Results of ``reconx bench``: how they are kept, compared and written into a document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconx_ros.core import InvalidInputError, StorageError
from reconx_ros.core.files import write_text
from reconx_ros.core.machine import load_average, machine
from reconx_ros.pipeline.report import versions

BENCH_VERSION = 1  # raised when a bench measures something else under the same name
BEGIN, END = "<!-- reconx bench: begin -->", "<!-- reconx bench: end -->"

# What a row measured, not what it found. Anything else that is a number is a figure; the number of threads is neither,
# it belongs to the machine.
_CASE = ("bench", "what", "measure", "unit", "size", "gaussians", "sources", "planes", "window", "points", "frames")
_NEITHER = ("threads",)

Row = Mapping[str, Any]


def result(rows: Sequence[Row], missing: Mapping[str, str], load_before: float) -> dict[str, Any]:
    """What is kept of a run.

    Args:
        rows: of all benches; each names its bench.
        missing: bench to the sentence why it did not run.
        load_before: load average when it began.
    """
    return {
        "bench_version": BENCH_VERSION,
        "machine": machine(),
        "load_average": [load_before, load_average()],
        "versions": versions(),
        "missing": dict(missing),
        "rows": [dict(row) for row in rows],
    }


def read_result(path: Path) -> dict[str, Any]:
    """A result that ``--json`` wrote.

    Raises:
        StorageError: when it cannot be read.
        InvalidInputError: when it is something else, or of another version of the benches.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as err:
        raise StorageError(f"{path} cannot be read: {err.strerror}") from None
    except ValueError as err:
        raise InvalidInputError(f"{path} is not JSON: {err}") from None
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise InvalidInputError(f"{path} is no result of reconx bench: it has no rows")
    found = document.get("bench_version")
    if found != BENCH_VERSION:
        raise InvalidInputError(
            f"{path} is of version {found} of the benches, expected {BENCH_VERSION}: its figures measure other things"
        )
    return document


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results side by side.

    Attributes:
        rows: one per figure that both have: bench, case, figure, old, new, ratio (old / new).
        notes: sentences on what keeps the two from being compared in full.
    """

    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]


def compare(new: Mapping[str, Any], old: Mapping[str, Any]) -> Comparison:
    """Ratios old / new of every figure that two results share: above 1, a time became shorter.

    Raises:
        InvalidInputError: when they share none.
    """
    before, after = _figures(old["rows"]), _figures(new["rows"])
    rows = [
        {"bench": key[0], "case": key[1], "figure": key[2], "old": before[key], "new": after[key],
         "old/new": before[key] / after[key] if after[key] else None}
        for key in after
        if key in before
    ]  # fmt: skip
    if not rows:
        raise InvalidInputError("the two results share no figure: they are of different benches")
    return Comparison(rows=tuple(rows), notes=(*_machine_notes(new, old), *_coverage_notes(before, after)))


def _figures(rows: Sequence[Row]) -> dict[tuple[str, str, str], float]:
    """(bench, case, name of the figure) to its value."""
    return {
        (str(row.get("bench", "")), case_from_row(row), name): float(value)
        for row in rows
        for name, value in row.items()
        if name not in (*_CASE, *_NEITHER) and isinstance(value, int | float) and not isinstance(value, bool)
    }


def case_from_row(row: Row) -> str:
    """What a row measured, in words."""
    return ", ".join(_case_word(name, row[name]) for name in _CASE[1:] if row.get(name) not in (None, ""))


def _case_word(name: str, value: Any) -> str:
    return f"{value:,} {name}" if isinstance(value, int) else str(value)


def _machine_notes(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    here, there = new.get("machine") or {}, old.get("machine") or {}
    names = [n for n in dict.fromkeys([*there, *here]) if there.get(n) != here.get(n)]
    notes = []
    if names:
        told = "; ".join(f"{n}: {there.get(n)} then, {here.get(n)} now" for n in names)
        notes.append(f"the machines differ, so ratios say little about the code: {told}")
    loads = [(r.get("load_average") or [0.0])[0] for r in (old, new)]
    if abs(loads[0] - loads[1]) > 1:
        notes.append(f"the load of the machine was {loads[0]:.1f} then and {loads[1]:.1f} now")
    return notes


def _coverage_notes(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[str]:
    gone, fresh = sorted({k[:2] for k in before} - {k[:2] for k in after}), {k[:2] for k in after}
    fresh_only = sorted(fresh - {k[:2] for k in before})
    notes = [f"only in the old result: {bench}: {case}" for bench, case in gone]
    return notes + [f"only in the new result: {bench}: {case}" for bench, case in fresh_only]


def markdown(document: Mapping[str, Any]) -> str:
    """A result as sections of a document, the machine named."""
    facts = [f"{k} {v}" for k, v in (document.get("machine") or {}).items() if v is not None]
    loads = " to ".join(f"{v:.1f}" for v in document.get("load_average") or ())
    versions_said = ", ".join(f"{k} {v}" for k, v in (document.get("versions") or {}).items())
    lines = [f"Machine: {', '.join(facts)}. Load average during the run: {loads}. Versions: {versions_said}.", ""]
    benches = dict.fromkeys(str(row.get("bench", "")) for row in document["rows"])
    for bench in benches:
        rows = [{k: v for k, v in r.items() if k != "bench"} for r in document["rows"] if r.get("bench", "") == bench]
        lines += [f"### `reconx bench {bench}`", "", *_table(rows), ""]
    lines += [f"`reconx bench {name}` did not run: {why}\n" for name, why in (document.get("missing") or {}).items()]
    return "\n".join(lines).rstrip() + "\n"


def _table(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    body = ["| " + " | ".join(cell(row.get(c)) for c in columns) + " |" for row in rows]
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|", *body]


def cell(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_section(path: Path, document: Mapping[str, Any]) -> None:
    """Put a result between the two marks in a document, in place of what is there.

    Raises:
        StorageError: when the file cannot be read or written.
        InvalidInputError: when it has not both marks, in order.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as err:
        raise StorageError(f"{path} cannot be written: {err.strerror}") from None
    start, stop = content.find(BEGIN), content.find(END)
    if start < 0 or stop < start:
        raise InvalidInputError(f"{path} has no line '{BEGIN}' with '{END}' after it, where the tables would go")
    write_text(path, f"{content[: start + len(BEGIN)]}\n\n{markdown(document)}\n{content[stop:]}")
