"""``reconx weights``: which weights there are, which are here, whether they are whole, and how to get the others."""

from __future__ import annotations

import argparse
import difflib
from typing import Any

from reconx_ros.cli.common import EXIT_OK, add_common_arguments, print_table, write_json
from reconx_ros.core import InvalidInputError, WeightsError
from reconx_ros.weights import verify
from reconx_ros.weights.catalogue import NOT_KNOWN, WeightsRow, catalogue
from reconx_ros.weights.resolve import fetch
from reconx_ros.weights.verify import WeightsState, state_of


def add_parser(commands: Any) -> None:
    """Add ``weights`` to the commands."""
    parser = commands.add_parser(
        "weights",
        help="which network weights there are, which are here and whole; fetch one",
        description="List the weights that settings may name, check those on this computer, fetch some from the hub.",
        epilog="example: reconx weights verify lpips-vgg16-heads",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="all weights: purpose, origin, size, licence, and whether they are here")
    verified = actions.add_parser("verify", help="compare the files that are here with their known SHA-256")
    verified.add_argument("names", nargs="*", metavar="NAME", help="of the list; without, all that are here")
    fetched = actions.add_parser("fetch", help="download weights from the hub into its cache")
    fetched.add_argument("name", metavar="NAME", help="of the list")
    for action, function in ((listed, _list), (verified, _verify), (fetched, _fetch)):
        add_common_arguments(action)
        action.set_defaults(run=function)


def _list(arguments: argparse.Namespace) -> int:
    states = [state_of(row) for row in catalogue().values()]
    for state in states:
        row = state.row
        print_table(
            row.name,
            [
                ("state", state.state + (f", {state.message}" if state.state == verify.DAMAGED else "")),
                ("for", row.purpose),
                ("from", row.origin),
                ("size", NOT_KNOWN if row.size_bytes is None else f"{row.size_bytes / 1e6:.3g} MB"),
                ("licence", f"code {row.licence_code or NOT_KNOWN}, weights {row.licence_weights or NOT_KNOWN}"),
                ("SHA-256", row.sha256 or NOT_KNOWN),
            ],
        )
    _write(arguments, states)
    return EXIT_OK


def _verify(arguments: argparse.Namespace) -> int:
    named = [_row(name) for name in arguments.names]
    states = [state_of(row, thorough=True) for row in named or catalogue().values()]
    shown = states if named else [state for state in states if state.state != verify.MISSING]
    if shown:
        print_table("reconx weights verify", [(state.row.name, _verdict(state)) for state in shown])
    else:
        print("no weights of the catalogue are on this computer")
    _write(arguments, states)
    wrong = [state for state in shown if state.state != verify.PRESENT]
    if wrong:
        raise WeightsError(f"{len(wrong)} of {len(shown)} are {verify.MISSING} or {verify.DAMAGED}: {wrong[0].message}")
    return EXIT_OK


def _verdict(state: WeightsState) -> str:
    if state.state != verify.PRESENT:
        return f"{state.state}: {state.message}"
    compared = f"{state.checked} file(s) as expected" if state.checked else "present, no SHA-256 known to compare with"
    return f"{compared}: {state.path}"


def _fetch(arguments: argparse.Namespace) -> int:
    row = _row(arguments.name)
    print(f"{row.name}: {row.origin}, {row.terms}")
    path = fetch(row)
    print(f"in {path}")
    _write(arguments, [state_of(row)])
    return EXIT_OK


def _row(name: str) -> WeightsRow:
    rows = catalogue()
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1, cutoff=0.0)[0]
        raise InvalidInputError(f"there are no weights '{name}', the nearest name is '{near}' (reconx weights list)")
    return rows[name]


def _write(arguments: argparse.Namespace, states: list[WeightsState]) -> None:
    if arguments.json:
        write_json(arguments.json, {"weights": [_content(state) for state in states]})


def _content(state: WeightsState) -> dict[str, Any]:
    row = state.row
    return {
        "name": row.name,
        "purpose": row.purpose,
        "origin": row.origin,
        "hub_id": row.hub_id,
        "revision": row.revision,
        "sha256": row.sha256,
        "size_bytes": row.size_bytes,
        "licence_code": row.licence_code,
        "licence_weights": row.licence_weights,
        "card": row.card,
        "state": state.state,
        "path": None if state.path is None else str(state.path),
        "files_checked": state.checked,
        "message": state.message,
    }
