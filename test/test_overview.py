"""The overview picture and the report page."""

from __future__ import annotations

import html.parser
from pathlib import Path

import numpy as np
import pytest
import torch

from reconx_ros.core import (
    SE3,
    AlignedViews,
    InvalidInputError,
    PinholeCamera,
    PointCloud,
    PointMap,
    Provenance,
    StorageError,
)
from reconx_ros.io.images import read_image
from reconx_ros.viz import canvas
from reconx_ros.viz.map_view import draw_map, nice_length, up_direction
from reconx_ros.viz.overview import WIDTH, OverviewData, draw_overview, overview_data, write_overview
from reconx_ros.viz.pages import novel_views, write_pages
from reconx_ros.viz.palette import KIND_COLOURS, provenance_picture
from reconx_ros.viz.report import report_findings, report_html, write_report

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # looks along world x, z up


def pose(x: float, y: float, yaw: float = 0.0) -> SE3:
    turn = SE3.exp(np.array([0.0, 0.0, yaw]), np.zeros(3)).rotation
    return SE3(rotation=turn @ FORWARD, translation=np.array([x, y, 1.0]))


def cloud(count: int = 4000) -> PointCloud:
    rng = np.random.default_rng(0)
    points = rng.uniform([-2, -1, 0], [4, 1, 0.8], (count, 3)).astype(np.float32)
    return PointCloud(
        points=points,
        rgb_u8=np.full((count, 3), 120, np.uint8),
        confidence=np.ones(count, np.float32),
        provenance=np.ones(count, np.uint8),
        keyframe_ids=np.zeros(count, np.uint32),
    )


def view(k: int) -> PointMap:
    depth = torch.linspace(1, 4, 48 * 64).reshape(48, 64)
    return PointMap(
        rgb=torch.full((48, 64, 3), 0.2 + 0.1 * k),
        depth=depth,
        confidence=torch.linspace(0, 1, 48 * 64).reshape(48, 64),
        valid=depth > 1.5,
        provenance=Provenance.OBSERVED.where(depth > 1.5),
        camera=PinholeCamera(width=64, height=48, fx=50, fy=50, cx=31.5, cy=23.5),
        world_from_cam=pose(0.5 * k, 0.0),
        keyframe_id=k,
    )


def full(count: int = 9) -> OverviewData:
    aligned = AlignedViews(
        views=tuple(view(k) for k in range(3)), metric_scale=True, scale_source="test", backend="test"
    )
    novel = [np.full((48, 64, 3), 20 * k, np.uint8) for k in range(count)]
    provenance = np.zeros((48, 64), np.uint8)
    for row, kind in enumerate(Provenance):
        provenance[12 * row : 12 * row + 12] = int(kind)
    return overview_data(
        aligned,
        novel,
        [pose(0.1 * k, 0.2) for k in range(count)],
        cloud(),
        title="A room",
        lines=["one fact", "another fact"],
        depths=[np.full((48, 64), 2.0, np.float32)] * count,
        confidences=[np.full((48, 64), 0.5, np.float32)] * count,
        provenances=[provenance] * count,
    )


def holds(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 3) -> bool:
    return bool((np.abs(picture.astype(int) - colour).max(axis=-1) <= tolerance).any())


def test_an_overview_shows_all_its_parts(tmp_path: Path) -> None:
    picture = draw_overview(full())
    assert picture.dtype == np.uint8
    assert picture.shape[1] == WIDTH
    assert (picture[:, 0] == 255).all()
    assert (picture[:, -1] == 255).all()
    for colour in (*KIND_COLOURS.values(), canvas.EMPTY, canvas.INPUT_CAMERA, canvas.PATH):
        assert holds(picture, colour)
    write_overview(tmp_path / "overview.png", full())
    assert np.array_equal(read_image(tmp_path / "overview.png"), picture)
    with pytest.raises(StorageError):
        write_overview(tmp_path / "no" / "overview.png", full())


def test_parts_that_are_missing_are_left_out() -> None:
    only_title = draw_overview(OverviewData(title="Nothing yet"))
    assert only_title.shape[0] < 140
    no_map = draw_overview(OverviewData(title="Pictures", inputs=[np.zeros((30, 40, 3), np.uint8)]))
    assert only_title.shape[0] < no_map.shape[0] < draw_overview(full()).shape[0]
    odd = OverviewData(
        title="Ünïcode – " + "long " * 200, inputs=[np.zeros((90, 10, 3), np.uint8)] * 2, depths=[np.zeros((4, 4))]
    )
    assert draw_overview(odd).shape[1] == WIDTH


def test_without_depths_of_new_views_the_keyframes_are_shown() -> None:
    aligned = AlignedViews(views=(view(0), view(1)), metric_scale=False, scale_source=None, backend="test")
    data = overview_data(aligned, [], [], PointCloud.empty(), title="Unscaled")
    assert len(data.depths) == 2
    assert float(data.depths[0].min()) == 0
    assert not data.metric_scale
    assert draw_overview(data).shape[1] == WIDTH


def test_false_colours_mark_what_is_unknown() -> None:
    depth = np.array([[0.0, np.nan, 1.0, 3.0]])
    picture = canvas.depth_picture(depth, 1.0, 3.0)
    assert (picture[0, :2] == canvas.EMPTY).all()
    assert picture[0, 2, 0] > picture[0, 2, 2]  # near is red
    assert picture[0, 3, 2] >= picture[0, 3, 0]  # far is blue
    with pytest.raises(InvalidInputError, match="rising"):
        canvas.depth_picture(depth, 1.0, 1.0)
    assert (canvas.confidence_picture(np.array([[0.0, 0.5]]))[0, 0] == canvas.EMPTY).all()
    kinds = provenance_picture(np.array([[0, 1, 2, 3, 99]]))
    assert [tuple(c) for c in kinds[0]] == [KIND_COLOURS[k] for k in (*sorted(Provenance), Provenance.NONE)]
    assert canvas.depth_range([]) == (0.0, 1.0)
    near, far = canvas.depth_range([np.array([[0.0, 2.0, 2.0]])])
    assert far > near == 2.0


def test_depth_colours_are_even_in_inverse_depth() -> None:
    half = canvas.depth_picture(np.array([[2.0]]), 1.0, 1e6)[0, 0]  # 1 / 2 m is half of 1 / 1 m
    assert np.abs(half.astype(int) - canvas.depth_picture(np.array([[0.5]]), 0.0, 1.0)[0, 0]).max() <= 4


def test_withheld_pictures_get_a_row_of_their_own() -> None:
    data = full(6)
    beside = OverviewData(**{**data.__dict__, "truths": data.novel, "novel_captions": ["20.0 dB"] * 6})
    assert draw_overview(beside).shape[0] > draw_overview(data).shape[0] + 100


@pytest.mark.parametrize(("count", "most", "expected"), [(3, 6, [0, 1, 2]), (9, 3, [0, 4, 8]), (0, 4, [])])
def test_few_of_many_are_chosen_evenly(count: int, most: int, expected: list[int]) -> None:
    assert canvas.chosen(count, most) == expected


def test_pictures_are_shrunk_never_grown() -> None:
    picture = np.zeros((30, 60, 3), np.uint8)
    assert canvas.shrunk(picture, 60) is picture
    assert canvas.shrunk(picture, 20).shape == (10, 20, 3)


def test_text_is_as_wide_as_promised_and_stays_on_the_canvas() -> None:
    paper = canvas.blank(40, 300)
    end = canvas.put_text(paper, "Depth 3 m", 10, 10, 12)
    assert end == 10 + canvas.text_width("Depth 3 m", 12)
    ink = np.argwhere((paper < 200).any(axis=-1))
    assert ink[:, 1].min() >= 10
    assert ink[:, 1].max() < end
    assert 9 <= ink[:, 0].min() <= 12
    before = paper.copy()
    for x, y in ((400, 10), (10, 90), (-500, -500)):
        canvas.put_text(paper, "outside", x, y, 12)
    assert np.array_equal(paper, before)
    canvas.put_text(paper, "half outside", -20, -3, 12)
    assert canvas.shortened("short", 10, 200) == "short"
    assert canvas.text_width(canvas.shortened("very long text " * 5, 10, 120), 10) <= 120


def test_pictures_fit_their_box_undistorted() -> None:
    red = np.zeros((10, 40, 3), np.uint8)
    red[..., 0] = 255
    box = canvas.fitted(red, 80, 80)
    assert box.shape == (80, 80, 3)
    rows = np.flatnonzero((box == (255, 0, 0)).all(axis=-1).any(axis=1))
    assert 18 <= len(rows) <= 22
    assert (box[0] == canvas.EMPTY).all()


@pytest.mark.parametrize(
    ("longest", "expected"), [(1.0, 1.0), (1.9, 1.0), (2.0, 2.0), (7.0, 5.0), (0.3, 0.2), (450, 200)]
)
def test_scale_bars_are_round(longest: float, expected: float) -> None:
    assert nice_length(longest) == pytest.approx(expected)


def test_up_is_z_for_upright_cameras_and_theirs_otherwise() -> None:
    assert up_direction([pose(0, 0)]).tolist() == [0, 0, 1]
    assert up_direction([]).tolist() == [0, 0, 1]
    assert up_direction([SE3.identity()]).tolist() == pytest.approx([0, -1, 0])


def test_the_map_shows_points_below_the_cameras_only() -> None:
    points = cloud()
    above = PointCloud(**{**points.__dict__, "points": points.points + np.array([0, 0, 5], np.float32)})
    drawn = draw_map(points, [pose(0, 0)], [], width=300, height=200, unit="m")
    hidden = draw_map(above, [pose(0, 0)], [], width=300, height=200, unit="m")
    grey = (154, 154, 154)
    assert drawn.shape == (200, 300, 3)
    assert holds(drawn, grey, 6)
    assert not holds(hidden, grey, 6)
    for inputs, path in (([], []), ([pose(0, 0)], [pose(0, 0)]), ([SE3.exp(np.array([np.pi, 0, 0]), np.zeros(3))], [])):
        assert draw_map(PointCloud.empty(), inputs, path, width=120, height=80, unit="m").shape == (80, 120, 3)


REPORT = {
    "keyframes": 6,
    "points": 312045,
    "confident_share": 0.61,
    "psnr_inputs": 27.314,
    "metric_scale": True,
    "generates": False,
    "backends": {"pointmap": "multiview", "diffusion": "warp", "splatting": "native"},
    "stages": [
        {"name": "pointmap", "backend": "multiview", "seconds": 12.5, "peak_mb": 812.0, "peak_cuda_mb": None},
        {"name": "render", "backend": "", "seconds": 0.5, "peak_mb": 900.0},
    ],
    "warnings": ["in-between views are <empty> & unknown"],
    "licences": {"multiview": {"code": "Apache-2.0", "weights": ""}},
    "versions": {"reconx_ros": "0.1.0"},
    "config": {"seed": 0},
}


class _Checker(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    picture = np.full((20, 30, 3), 90, np.uint8)
    page = report_html(REPORT, [("view 1", picture), ("view 2", picture)], title="Room <1>", overview=picture)
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.links) == 3
    assert all(link.startswith("data:image/jpeg;base64,") for link in checker.links)
    assert "script" not in checker.tags
    assert "http" not in page.replace("data:", "")
    for text in (
        "Room &lt;1&gt;",
        "312,045",
        "61 %",
        "27.31 dB",
        "12.50",
        "812",
        "&lt;empty&gt; &amp; unknown",
        "yes",
        "seed",
    ):
        assert text in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    write_report(tmp_path / "report.html", REPORT, title="Room")
    assert "<h1>Room</h1>" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_pages_compare_every_layer_of_the_novel_views(tmp_path: Path) -> None:
    write_pages(tmp_path, full(), {**REPORT, "coverage_history": [(0.0, 0.1), (2.0, 0.9)]})
    assert read_image(tmp_path / "overview.png").shape[1] == WIDTH
    page = (tmp_path / "report.html").read_text()
    checker = _Checker()
    checker.feed(page)
    assert checker.open == [] and "script" in checker.tags
    assert all(link.startswith("data:") for link in checker.links if link)
    for words in (
        "keyframe 2",
        "novel view 8",
        "Covered share",
        '"provenance": "provenance"',
        "observed: measured by two views",
    ):
        assert words in page, words
    assert {len(v.pictures) for v in novel_views(full())} == {4}
    assert novel_views(full(0)) == []


def test_a_report_says_what_went_right_and_wrong() -> None:
    def kinds(**report: object) -> list[str]:
        return [f.kind for f in report_findings(report)]

    assert kinds(psnr_heldout=27.0, psnr_inputs=28.0, confident_share=0.8, depth={"median": 0.01}) == ["good"] * 4
    assert kinds(psnr_heldout=12.0, psnr_inputs=15.0, confident_share=0.2, depth={"median": 0.2}) == ["bad"] * 4
    assert kinds(coverage_before=0.1, coverage_after=0.9) == ["good"]
    assert kinds(coverage_before=float("nan"), coverage_after=0.9) == []
    (lost,) = report_findings({"keyframe_ids": [1, 2, 3], "keyframe_ids_joined": [1, 2]})
    assert lost.kind == "bad" and "Only 2 of 3 images could be joined" in lost.text
    (dropped,) = report_findings({"frames_dropped": {"no_pose": 4}})
    assert dropped.text == "Frames that were not used: 4 no_pose."


def test_an_empty_report_is_still_a_page() -> None:
    page = report_html({})
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert "Stages" not in page


def test_gpu_memory_has_its_own_column() -> None:
    stages = [{"name": "a", "backend": "b", "seconds": 0.0, "peak_mb": 1.0, "peak_cuda_mb": 2048.0}]
    assert "2,048" in report_html({"stages": stages})
    assert "GPU MiB" not in report_html(REPORT)
