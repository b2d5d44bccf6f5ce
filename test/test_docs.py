"""Files, modules, names and links that docs and docstrings point to exist, and the words are the glossary's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import architecture
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "reconx_ros"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INTERFACES = sorted(path for kind in ("msg", "srv", "action") for path in (ROOT / kind).glob(f"*.{kind}"))
OWN_FOLDERS = (
    "reconx_ros",
    "launch",
    "config",
    "test",
    "docs",
    "scripts",
    "cmake",
    "requirements",
    "msg",
    "srv",
    "action",
)
FILE = re.compile(r"(?<![\w/*{-])\w[\w.-]*(?:/[\w.-]+)*\.(?:py|c|h|md|xml|yaml|rviz)\b(?![\w/*])")
DOTTED = re.compile(r"\breconx_ros(?:\.[A-Za-z_]\w*)+")
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
OTHERS = {"metadata.yaml", "metrics.md"}  # files of bags, and files that the package writes
# Former words for what the glossary calls an in-between view or a generated pixel.
RETIRED = re.compile(r"made-up (?:frame|view|pixel)|(?:frames|views)\s+between\b(?!\**\s+them)", re.IGNORECASE)


@cache
def own_files() -> frozenset[str]:
    """All files of the project's own folders and of its root, relative, with every tail of their path."""
    paths = [path for folder in OWN_FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    paths += [path for path in ROOT.iterdir() if path.is_file()]
    tails = set()
    for path in paths:
        parts = path.relative_to(ROOT).parts
        tails.update("/".join(parts[k:]) for k in range(len(parts)))
    return frozenset(tails)


def missing_files(text: str) -> list[str]:
    """Files that a text names and the project does not have."""
    return [name for name in FILE.findall(text) if name not in own_files() and name.split("/")[-1] not in OTHERS]


def missing_names(text: str) -> list[str]:
    """Dotted names of the package that lead nowhere."""
    return [name for name in DOTTED.findall(text) if not exists(name)]


def exists(name: str) -> bool:
    """Whether a dotted name is a module or a name in one; nothing is imported."""
    place, parts = PACKAGE, name.split(".")[1:]
    while parts and (place / parts[0]).is_dir():
        place = place / parts.pop(0)
    if not parts or parts[0] in ("msg", "srv", "action"):
        return True
    module = place / f"{parts[0]}.py"
    if module.is_file():
        parts.pop(0)
    else:
        module = place / "__init__.py"
    return not parts or (module.is_file() and _defines(module, parts))


def _defines(module: Path, parts: list[str]) -> bool:
    body: list[ast.stmt] = ast.parse(module.read_text(encoding="utf-8")).body
    for part in parts:
        found = [s for s in body if part in _names(s)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def _names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in statement.names}
    return {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not missing_files(text) and not missing_names(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        found = (page.parent / target) if target else page
        assert found.exists(), f"{target} in {page.name}"
        assert not anchor or anchor in slugs(found), f"{target}#{anchor} in {page.name}"


def test_docstrings_and_interfaces_name_only_what_exists() -> None:
    texts = {path: "\n".join(docstrings(path)) for path in PACKAGE.rglob("*.py")}
    texts |= {path: path.read_text(encoding="utf-8") for path in INTERFACES}
    wrong = {
        path.relative_to(ROOT): missing_files(text) + missing_names(text) + not_beside(path, text)
        for path, text in texts.items()
    }
    assert not {path: found for path, found in wrong.items() if found}


def not_beside(path: Path, text: str) -> list[str]:
    """Modules that a file's text names without their folder, and that lie neither beside it nor in the root."""
    bare = [name for name in FILE.findall(text) if name.endswith(".py") and "/" not in name]
    return [name for name in bare if not (path.parent / name).exists() and not (ROOT / name).exists()]


def test_what_does_not_exist_is_noticed() -> None:
    text = "`pointmap/nowhere.py`, io/ply.py, reconx_ros.core.SE3, reconx_ros.core.transforms.SE3.exp, reconx_ros.no"
    assert missing_files(text) == ["pointmap/nowhere.py"] and missing_names(text) == ["reconx_ros.no"]


def test_the_architecture_page_lists_every_folder() -> None:
    rows = re.findall(
        r"^\| (`[^|]*`) \|", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} - {"."}
    assert folders - listed == set() and {n for n in listed if not (PACKAGE / n).is_dir()} == set()


def test_the_architecture_page_tells_the_import_rules() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("\n## ")[0]
    library = ", ".join(architecture.MAY_IMPORT["pipeline"])
    told = {}
    for part, cell in re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", page, re.MULTILINE):
        words = cell.replace("the library", library).split(", but")[0].strip("- ")
        told[part] = set(words.split(", ")) - {part, ""}
    rules = {part: set(others) - {part} for part, others in architecture.MAY_IMPORT.items() if part}
    assert told.pop("cli") == {"all of them; `ros` only inside functions"} and rules.pop("cli")
    assert told == rules


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_one_word_for_what_stage_2_makes(page: Path) -> None:
    assert not RETIRED.findall(page.read_text(encoding="utf-8"))


def test_the_glossary_names_classes_that_exist() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    classes = {name for row in re.findall(r"\(([^)]*)\)", text) for name in re.findall(r"`([A-Z]\w+)`", row)}
    assert len(classes) > 15
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert {name for name in classes if not re.search(rf"^class {name}\b", sources, re.MULTILINE)} == set()
