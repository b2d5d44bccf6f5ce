"""The report page of an evaluation: what it says, and that it works in a browser."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PHONE, OpenPage, chromium
from evaluation_folders import COLOURS, method, run, write_folder

from reconx_ros.core import InvalidInputError
from reconx_ros.evaluation.findings import findings
from reconx_ros.evaluation.layout import FORMAT, TRUTH, RunSetting
from reconx_ros.evaluation.live_record import LiveRecord, live_record
from reconx_ros.evaluation.report.page import write_evaluation_page
from reconx_ros.evaluation.report.pictures import chosen_views
from reconx_ros.io.images import decode_image
from reconx_ros.viz.plots import Series, lines, scatter, stepped, ticks

LIVE = LiveRecord(
    every=4, rate=2.0, length_s=20.0, frames=40, withheld=10, not_drawn={"no pose in the map": 1}, keyframes=6,
    reconstructions=2, frames_dropped={"no_pose": 3}, coverage=((0.0, 0.1), (10.0, 0.5), (20.0, 0.8)),
    clouds=((5.0, 3.0), (15.0, 5.0)), callback_ms={"p50": 0.1, "p99": 0.4},
)  # fmt: skip


def said(one: Any) -> dict[str, str]:
    """Sentences by kind."""
    out: dict[str, str] = {}
    for kind, sentence in findings(one):
        out[kind] = f"{out.get(kind, '')} {sentence}"
    return out


def test_sentences_tell_what_went_right_and_wrong() -> None:
    told = said(run())
    assert "19.5 dB on the mean of 4 withheld pictures: 5.5 dB above" in told["good"]
    assert "better on 1 of 4 pictures: 0003.jpg" in told["bad"]
    assert "0003.jpg with 12.0 dB: 0.75 input spacings and 15° away from the nearest input, 60 % of it" in told["info"]
    assert "20.3 dB where an input saw the surface, 18.5 dB where none did" in told["info"]
    assert "65 % of the squared error lies where no input looked" in told["info"]
    assert "Without video: not available, its weights are not here" in told["info"]
    assert "beware" in told["info"]


def test_error_that_nothing_explains_is_not_laid_on_observed_surface() -> None:
    half = tuple(replace(t, judged_share=0.5, observed_share=0.9) for t in run().tests)
    good_where_judged = [{"psnr": 15.0, "ssim": 0.5, "psnr_observed": 22.0, "psnr_unobserved": 18.0}] * 4
    ours = method("ours", "Ours", [15.0] * 4, kind="method", views=tuple(good_where_judged))
    ours = replace(ours, mean={"psnr": 15.0, "psnr_observed": 22.0, "psnr_unobserved": 18.0})
    told = said(run(tests=half, methods=(ours,)))
    where = "where no depth tells whether an input looked (50 % of the pixels); of the rest: "
    assert (
        f"89 % of the squared error lies {where}22.0 dB where an input saw the surface, 18.0 dB where none did."
        in told["info"]
    )
    assert "input; depth tells who saw 50 % of its pixels, and no input saw 10 % of these" in told["info"]
    assert "surface that an input saw:" not in told.get("bad", "")


def test_a_loss_against_a_baseline_is_called_one() -> None:
    ours, near = method("ours", "Ours", [10.0] * 4, kind="method"), method("nearest", "nearest", [15.0] * 4)
    assert "5.0 dB below the best baseline, nearest, 15.0 dB" in said(run(methods=(ours, near)))["bad"]
    assert "no better than" in said(run(methods=(near, near)))["bad"]
    assert "no baseline ran" in said(run(methods=(ours,)))["info"]
    empty = method("ours", "Ours", [10.0] * 4, kind="method", mean={"psnr": 10.0, "filled": 0.8})
    assert "20 % of the pixels stay empty" in said(run(methods=(empty,)))["bad"]


def test_a_run_without_result_says_why() -> None:
    assert "refused): 2 images" in said(run(status="refused", message="2 images share no match"))["bad"]
    failed = method("ours", "Ours", [], kind="method", mean={}, views=(), status="failed", message="out of memory")
    assert "Ours gave no pictures (failed): out of memory" in said(run(methods=(failed,)))["bad"]


def test_what_nodes_tell_is_said() -> None:
    told = said(run(live=LIVE.as_mapping()))
    assert "explains 80 %" in told["good"]
    assert "4.0 s after its newest image (median, 3.0 to 5.0 s)" in told["info"]
    assert "did not use 3 frames: 3 no_pose" in told["bad"] and "1 withheld pictures could not be drawn" in told["bad"]
    assert live_record(json.loads(json.dumps(LIVE.as_mapping()))) == LIVE
    assert live_record({}) is None


def test_equal_pictures_are_no_accident_of_the_page(tmp_path: Path) -> None:
    perfect = method("ours", "Ours", [math.inf] * 4, kind="method")
    page = write_evaluation_page(write_folder(tmp_path, run(methods=(perfect,))).root).read_text()
    assert ">equal<" in page and "inf " not in page and "nan" not in page


def test_the_page_is_one_file_that_says_everything(tmp_path: Path) -> None:
    other = run("hall", live=LIVE.as_mapping(), setting=RunSetting(scene="hall", views=3, poses="given", seed=0))
    folder = write_folder(tmp_path, run(), other, machine={"processor": "A processor"}, seconds=300.0)
    page = write_evaluation_page(folder.root).read_text()
    for words in ("room", "hall", "A processor", "5 min", "19.50", "14.00", "Nearest input view", "321 MiB", "2.50 s",
                  "its weights are not here", "reconx evaluate room", "&lt;script&gt;alert", "gaussians"):  # fmt: skip
        assert words in page, words
    assert "<script>alert" not in page and "http" not in page
    assert page.count("<circle") == 0 and page.count('class="mark"') >= 16
    assert "prefers-color-scheme: dark" in page and 'name="viewport"' in page


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no metrics.json"), ("{}", "KeyError"), ("[]", "TypeError"), ("{", "JSONDecodeError"),
     ('{"format": 99}', f"json has format 99, expected {FORMAT}: evaluate again"),
     (f'{{"format": {FORMAT}, "runs": 3, "summary": []}}', "TypeError")],
)  # fmt: skip
def test_a_folder_that_is_no_evaluation_is_refused(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InvalidInputError, match=words):
        write_evaluation_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_missing_pictures_and_no_runs_still_give_a_page(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, run())
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    assert "are not in its folder" in write_evaluation_page(folder.root).read_text()
    assert "There is no run" in write_evaluation_page(write_folder(tmp_path).root).read_text()


def test_views_are_chosen_from_the_worst_to_the_best() -> None:
    scores = [5.0, 1.0, 9.0, 3.0, 7.0]
    assert chosen_views(scores, 9) == [0, 1, 2, 3, 4]
    assert chosen_views(scores, 3) == [0, 1, 2]
    assert {1, 2} <= set(chosen_views(scores, 4))


def test_plots_have_round_ticks_that_enclose_the_values() -> None:
    for low, high in ((9.7, 26.0), (0.0, 0.0), (-3.0, 4.0), (1e-4, 2e-4), (5.0, 5.0)):
        found = ticks(low, high)
        assert found[0] <= low and found[-1] >= high and len(found) >= 2
        assert np.allclose(np.diff(found), found[1] - found[0])
    assert scatter("t", [Series(name="a", points=[])]) == ""
    drawn = lines("t <", [Series(name="a", points=[(0, 0), (10, 50)])], events=[(5, "here")], y_range=(0, 100))
    assert "t &lt;" in drawn and drawn.count('class="line"') == 1 and drawn.count('class="event"') == 1


def test_a_value_stays_until_the_next_is_known() -> None:
    assert stepped([(0, 1), (5, 3), (6, 2)]) == [(0, 1), (5, 1), (5, 3), (6, 3), (6, 2)]
    assert stepped([(2, 1)]) == [(2, 1)] and stepped([]) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("evaluation")
    return write_evaluation_page(write_folder(root, run(live=LIVE.as_mapping())).root).as_uri()


def pixel(opened: OpenPage, share: float) -> np.ndarray:
    """Colour of the compared picture at a share of its width, three quarters down."""
    picture = decode_image(opened.page.locator(".stage").first.screenshot(), "screenshot")
    return picture[picture.shape[0] * 3 // 10, round(share * picture.shape[1])].astype(int)


def near(colour: np.ndarray, expected: tuple[int, int, int]) -> bool:
    return bool(np.abs(colour - expected).max() < 14)


def test_the_slider_wipes_between_truth_and_ours(browser: Any, address: str) -> None:
    opened = OpenPage(browser, address)
    assert near(pixel(opened, 0.25), COLOURS[TRUTH]) and near(pixel(opened, 0.75), COLOURS["ours"])
    opened.page.locator(".stage input").first.press("Home")
    assert near(pixel(opened, 0.25), COLOURS["ours"])
    opened.page.locator(".stage input").first.press("End")
    assert near(pixel(opened, 0.75), COLOURS[TRUTH])
    assert opened.problems == []


def test_layers_and_views_are_chosen_by_hand(browser: Any, address: str) -> None:
    opened = OpenPage(browser, address)
    page = opened.page
    names = page.locator("select.right").first.locator("option").all_inner_texts()
    assert names == ["truth", "Ours", "Nearest input view", "error of Ours", "error of Nearest input view",
                     "seen by an input"]  # fmt: skip
    page.select_option("select.right", "nearest")
    assert near(pixel(opened, 0.75), COLOURS["nearest"])
    page.select_option("select.left", "ours_error")
    assert near(pixel(opened, 0.25), (250, 250, 0)) and "error: none" in page.locator(".swatches").first.inner_text()
    page.locator(".thumbs button").nth(3).click()
    assert "0003.jpg" in page.locator(".said").first.inner_text()
    assert near(pixel(opened, 0.75), COLOURS["nearest"]), "another view keeps what is compared"
    assert opened.problems == []


def test_it_fits_a_phone_and_darkens(browser: Any, address: str) -> None:
    phone, dark = OpenPage(browser, address, size=PHONE), OpenPage(browser, address, size=PHONE, dark=True)
    assert phone.overflow_px() <= 0, "the page scrolls sideways"
    papers = [o.page.evaluate("getComputedStyle(document.body).backgroundColor") for o in (phone, dark)]
    assert papers[0] == "rgb(255, 255, 255)" and papers[1] != papers[0]
    smallest = phone.page.evaluate(
        "Math.min(...[...document.querySelectorAll('p, td, li, dd, text')].map(e => e.getClientRects().length ?"
        " parseFloat(getComputedStyle(e).fontSize) * (e.ownerSVGElement ? e.getScreenCTM().a : 1) : 99))"
    )
    assert smallest >= 9.5, "text is too small to read"
    assert phone.problems == [] and dark.problems == []
