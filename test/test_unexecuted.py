"""The list of functions that no test executes, and the rule that finds them."""

from __future__ import annotations

from collections import Counter
from configparser import ConfigParser

import architecture
from report_coverage import GPU, LIST, PACKAGE, ROOT, RULED, Function, differences, functions, read_list

SOURCE = '''\
class Shape:
    """A shape."""

    def area(self) -> float:
        """Area."""
        return 0.0

    def name(self) -> str: ...


def outer(x):
    y = x

    def inner():
        return y

    return inner


async def later():
    await outer(
        1
    )
'''


def by_name(*missing: int, excluded: tuple[int, ...] = (8,)) -> dict[str, bool | None]:
    statements = {1, 4, 6, 8, 11, 12, 14, 15, 17, 20, 21} - set(excluded)
    return {f.name: f.executed for f in functions("a/b.py", SOURCE, statements, set(missing))}


def test_a_function_is_executed_when_a_line_of_its_own_body_ran() -> None:
    nothing = by_name(6, 12, 14, 15, 17, 21)
    assert nothing == {
        "a/b.py: Shape.area": False, "a/b.py: Shape.name": None, "a/b.py: outer": False,
        "a/b.py: outer.inner": False, "a/b.py: later": False,
    }  # fmt: skip
    made = by_name(6, 15, 21)
    assert made["a/b.py: outer"] and made["a/b.py: outer.inner"] is False
    assert by_name(12, 14, 17)["a/b.py: outer"] is False  # its inner function ran, as where a worker unpickles it
    assert by_name()["a/b.py: later"]


def function(name: str, executed: bool | None) -> Function:
    return Function(name, (1, 2), executed)


def test_the_list_must_say_what_the_run_found() -> None:
    found = [
        function("core/a.py: used", True), function("core/a.py: idle", False), function("io/b.py: cuda", False),
        function("core/a.py: protocol", None), function("viz/c.py: not_ruled", False),
    ]  # fmt: skip
    assert differences(found, {"gpu": ("core/a.py: idle", "io/b.py: cuda")}, set()) == []
    assert differences(found, {"gpu": ("io/b.py: cuda",)}, set()) == ["core/a.py: idle is executed by no test"]
    listed = {"gpu": ("core/a.py: idle", "core/a.py: used", "io/b.py: cuda", "io/b.py: gone")}
    assert [s.split()[1] for s in differences(found, listed, set())] == ["used", "gone"]
    assert differences(found, listed, {"gpu"}) == []


def test_the_folder_of_a_function() -> None:
    assert function("core/a.py: f", True).folder == "core"
    assert function("__init__.py: f", True).folder == ""


def test_the_list_names_functions_that_exist_and_why_they_stay_unexecuted() -> None:
    listed = read_list()
    counts = Counter(name for names in listed.values() for name in names)
    assert all(count == 1 for count in counts.values()), counts.most_common(3)
    for reason, names in listed.items():
        assert list(names) == sorted(names), f"{LIST.name}: the names under '{reason}' are not sorted"
    existing: set[str] = set()
    for file in {name.split(":")[0] for name in counts}:
        path = PACKAGE / file
        assert path.is_file(), f"{LIST.name} names {file}, which does not exist"
        existing |= {f.name for f in functions(file, path.read_text(encoding="utf-8"), set(), set())}
    assert counts.keys() <= existing, counts.keys() - existing
    assert {name.split("/")[0] for name in counts} <= set(RULED) <= architecture.MAY_IMPORT.keys()


def test_the_reasons_are_a_gpu_or_a_package_that_is_optional() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packages = {
        line.replace("-", "_").split(">")[0].split("<")[0]
        for extra, lines in setup["options.extras_require"].items() if extra != "dev"
        for line in lines.split()
    }  # fmt: skip
    imports = {name.removesuffix("_sdk") for name in packages}
    assert read_list().keys() <= {GPU} | imports
