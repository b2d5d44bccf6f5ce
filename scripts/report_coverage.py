"""Prints what a measured test run executed, by folder, and every function that it never entered (``make coverage``).

With ``--check`` it fails unless test/unexecuted.yaml names exactly the functions of the ruled folders that the run
never entered. An entry whose reason does not hold on this computer, for example on one with a GPU, may go either way.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "reconx_ros"
LIST = ROOT / "test" / "unexecuted.yaml"
RULED = ("core", "geometry", "io", "jobs", "pipeline", "pointmap", "splatting", "weights")
GPU = "gpu"
"""The reason of functions that need a CUDA device; every other reason is the import name of a package."""


@dataclass(frozen=True)
class Function:
    """One function or method of the package.

    Attributes:
        name: "folder/file.py: Class.method"; the file as seen from the package.
        lines: numbers of the first and last line of its body.
        executed: whether a line of the body ran; None where it has none that could, as in a protocol.
    """

    name: str
    lines: tuple[int, int]
    executed: bool | None

    @property
    def folder(self) -> str:
        """The first folder in the package; the empty string for files that lie in none."""
        return self.name.split("/")[0] if "/" in self.name.split(":")[0] else ""


def functions(file: str, source: str, statements: set[int], missing: set[int]) -> list[Function]:
    """All functions of one source file, those inside others too.

    Args:
        file: path as it is to stand in names.
        source: text of the file.
        statements: numbers of the lines where statements begin.
        missing: those of them that did not run.
    """
    found = list(_bodies(ast.parse(source), ""))
    result = []
    for name, first, last in found:
        inner = [(a, b) for _, a, b in found if first <= a and b <= last and (a, b) != (first, last)]
        own = {n for n in statements if first <= n <= last and not any(a <= n <= b for a, b in inner)}
        result.append(Function(f"{file}: {name}", (first, last), bool(own - missing) if own else None))
    return result


def _bodies(node: ast.AST, prefix: str) -> Iterator[tuple[str, int, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{child.name}", child.body[0].lineno, child.end_lineno or child.lineno
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _bodies(child, f"{prefix}{child.name}.")
        else:
            yield from _bodies(child, prefix)


def read_list(path: Path = LIST) -> dict[str, tuple[str, ...]]:
    """Reason to names of functions that stay unexecuted for it."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {str(reason): tuple(names) for reason, names in content.items()}


def holds(reason: str) -> bool:
    """Whether a reason keeps functions from being executed on this computer."""
    if reason != GPU:
        return importlib.util.find_spec(reason) is None
    import torch

    return not torch.cuda.is_available()


def differences(found: Sequence[Function], listed: dict[str, tuple[str, ...]], excused: set[str]) -> list[str]:
    """One sentence for each function of a ruled folder that the list gets wrong.

    Args:
        found: all functions of the package.
        listed: reason to names.
        excused: reasons that do not hold here.
    """
    reasons = {name: reason for reason, names in listed.items() for name in names}
    idle = {f.name for f in found if f.executed is False and f.folder in RULED}
    said = [f"{name} is executed by no test" for name in sorted(idle - reasons.keys())]
    for name in sorted(reasons.keys() - idle):
        if reasons[name] not in excused:
            said.append(f"{name} is listed as unexecuted and is executed, or is gone")
    return said


def _measured() -> tuple[list[Function], dict[str, list[int]]]:
    """All functions, and (files, lines, executed lines) of each folder."""
    from coverage import Coverage

    coverage = Coverage(config_file=str(ROOT / "pyproject.toml"))
    coverage.load()
    found: list[Function] = []
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for path in sorted(PACKAGE.rglob("*.py")):
        _, statements, _, missing, _ = coverage.analysis2(str(path))
        file = path.relative_to(PACKAGE)
        row = lines[file.parts[0] if len(file.parts) > 1 else ""]
        row[:] = [row[0] + 1, row[1] + len(statements), row[2] + len(statements) - len(missing)]
        source = path.read_text(encoding="utf-8")
        found += functions(file.as_posix(), source, set(statements), set(missing))
    return found, lines


def _table(found: Sequence[Function], lines: dict[str, list[int]]) -> Iterator[str]:
    yield f"{'folder':<12}{'files':>6}{'lines':>8}{'executed':>10}{'functions':>11}{'executed':>10}"
    rows = {folder: [*row, 0, 0] for folder, row in sorted(lines.items())}
    for function in found:
        if function.executed is not None:
            rows[function.folder][3] += 1
            rows[function.folder][4] += function.executed
    rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    for folder, (files, count, ran, whole, entered) in rows.items():
        shares = f"{ran / max(1, count):>9.1%} {whole:>10} {entered / max(1, whole):>9.1%}"
        yield f"{folder or '(itself)':<12}{files:>6}{count:>8} {shares}"


def main() -> int:
    """Print the report; 1 where --check finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with test/unexecuted.yaml; for whole runs only")
    words = parser.parse_args()
    found, lines = _measured()
    print("\n".join(_table(found, lines)))
    idle = [f.name for f in found if f.executed is False]
    print(f"\n{len(idle)} functions that no test executes:")
    print("\n".join(f"  {name}" for name in idle))
    if not words.check:
        return 0
    listed = read_list()
    wrong = differences(found, listed, {reason for reason in listed if not holds(reason)})
    print("\n".join(["", *wrong]) if wrong else f"\nThe list of {LIST.name} is right.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
