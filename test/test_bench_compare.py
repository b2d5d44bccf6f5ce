"""Results of ``reconx bench``: gathered, compared with older ones, written into a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconx_ros.cli import bench
from reconx_ros.cli.bench_result import BEGIN, END, compare, markdown, read_result, result, write_section
from reconx_ros.cli.main import main
from reconx_ros.core import BackendUnavailableError, InvalidInputError, StorageError

ROWS = [
    {"bench": "splatting", "what": "rasterizer", "size": "64x48", "gaussians": 100, "threads": 2, "native_ms": 4.0,
     "torch_ms": 40.0, "ratio": 10.0},
    {"bench": "geometry", "what": "sweep", "size": "64x48", "sources": None, "planes": 9, "native_ms": 2.0},
    {"bench": "ros", "measure": "ingest rate", "value": 60.0, "unit": "images/s"},
    {"bench": "ros", "measure": "reasons", "value": "none"},
]  # fmt: skip


def measured(factor: float = 1.0, **extra: Any) -> dict[str, Any]:
    rows = [{k: v * factor if k in ("native_ms", "value") and isinstance(v, float) else v for k, v in r.items()}
            for r in ROWS]  # fmt: skip
    return {**result(rows, {}, 0.5), "load_average": [0.5, 0.5], **extra}


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_ratios_are_old_over_new_per_figure() -> None:
    found = compare(measured(0.5), measured())
    by_case = {(r["case"], r["figure"]): r for r in found.rows}
    row = by_case["rasterizer, 64x48, 100 gaussians", "native_ms"]
    assert (row["bench"], row["old"], row["new"], row["old/new"]) == ("splatting", 4.0, 2.0, 2.0)
    assert by_case["rasterizer, 64x48, 100 gaussians", "torch_ms"]["old/new"] == 1.0
    assert by_case["ingest rate, images/s", "value"]["old/new"] == 2.0
    assert {r["figure"] for r in found.rows} == {"native_ms", "torch_ms", "ratio", "value"}
    assert len(found.rows) == 5 and found.notes == ()


def test_what_keeps_results_from_being_compared_is_said() -> None:
    new = measured(machine={**measured()["machine"], "processor": "Another one"}, load_average=[9.0, 9.0])
    new["rows"] = [*new["rows"][1:], {"bench": "geometry", "what": "fresh", "native_ms": 0.0}]
    notes = "\n".join(compare(new, measured()).notes)
    assert "the machines differ" in notes and "Another one now" in notes
    assert "was 0.5 then and 9.0 now" in notes
    assert (
        "only in the old result: splatting: rasterizer" in notes and "only in the new result: geometry: fresh" in notes
    )
    with pytest.raises(InvalidInputError, match="share no figure"):
        compare({"rows": ROWS[:1]}, {"rows": ROWS[1:]})


def test_a_figure_of_zero_has_no_ratio() -> None:
    rows = [{"bench": "ros", "measure": "lost", "value": 0}]
    assert compare({"rows": rows}, {"rows": rows}).rows[0]["old/new"] is None


@pytest.mark.parametrize(
    ("content", "words"),
    [({**measured(), "bench_version": 7}, "version 7 of the benches, expected 1"),
     ({"bench": "ros", "rows": []}, "version None of the benches"), ({"a": 1}, "it has no rows"), ([], "has no rows")],
)  # fmt: skip
def test_other_versions_and_other_files_are_refused(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        read_result(written(tmp_path / "old.json", content))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"absent\.json cannot be read"):
        read_result(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"broken\.json is not JSON"):
        read_result(tmp_path / "broken.json")


def test_tables_go_between_the_marks_of_a_document(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Before\n{BEGIN}\nold table\n{END}\nafter\n")
    document = measured(missing={"ros": "rclpy is not installed"})
    for _ in range(2):
        write_section(page, document)
    text = page.read_text()
    assert text.startswith(f"# Before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "old table" not in text
    assert text.count("### `reconx bench splatting`") == 1 and "| rasterizer | 64x48 | 100 | 2 | 4.00 | 40.00 |" in text
    assert document["machine"]["processor"] in text and "`reconx bench ros` did not run: rclpy is not installed" in text
    page.write_text("no marks")
    with pytest.raises(InvalidInputError, match="has no line"):
        write_section(page, document)
    with pytest.raises(StorageError, match="cannot be written"):
        write_section(tmp_path / "absent.md", document)


def test_the_command_gathers_all_and_compares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(what: str, seconds: float) -> list[dict[str, Any]]:
        if what == "ros":
            raise BackendUnavailableError("ROS 2 is not here")
        return [{"what": "case", "native_ms": 1.0 + seconds}]

    monkeypatch.setattr(bench, "_measured", fake)
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert main(["bench", "--seconds", "3", "--json", str(first), "--quiet"]) == 0
    assert main(["bench", "all", "--seconds", "1", "--json", str(second), "--compare", str(first), "--quiet"]) == 0
    out = capsys.readouterr()
    assert "2.00" in out.out.split("old / new")[1] and "ros did not run: ROS 2 is not here" in out.err
    kept = read_result(second)
    assert [r["bench"] for r in kept["rows"]] == ["splatting", "geometry"] and kept["missing"]["ros"]
    assert kept["machine"]["processor"] and kept["machine"]["cores"] >= 1
    assert main(["bench", "ros"]) == 1 and "ROS 2 is not here" in capsys.readouterr().err
    written(first, {**kept, "bench_version": 99})
    assert main(["bench", "--from", str(second), "--compare", str(first)]) == 1
    assert "is of version 99 of the benches" in capsys.readouterr().err


def test_the_page_of_figures_has_its_place_for_them(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text((Path(__file__).resolve().parent.parent / "docs" / "performance.md").read_text())
    write_section(page, measured())
    assert "### `reconx bench geometry`" in page.read_text()


def test_a_result_reads_well() -> None:
    assert "| measure | value | unit |\n|---|---|---|\n| ingest rate | 60.00 | images/s |" in markdown(measured())
