"""Puts a run of `reconx train depth` into the package as reconx-depth-small, and draws its curves for the docs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reconx_ros.core.files import write_text
from reconx_ros.pointmap.completion.inputs import CompletionView
from reconx_ros.pointmap.completion.predict import Prediction, predict
from reconx_ros.pointmap.completion.training.evaluate import calibration, scored
from reconx_ros.pointmap.completion.training.examples import example_paths, load_example
from reconx_ros.pointmap.completion.weights import SHIPPED_NAME, TRAINED_NAME, load_completion
from reconx_ros.weights.catalogue import write_shipped

Points = Sequence[tuple[float, float]]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # of Okabe and Ito: all colour vision tells them apart
WIDTH, HEIGHT, EDGE = 520, 300, 48


def chart(title: str, x_label: str, lines: dict[str, Points], *, x_max: float, diagonal: bool = False) -> str:
    """An SVG chart of shares in [0, 1]."""

    def place(x: float, y: float) -> str:
        return f"{EDGE + x / x_max * (WIDTH - EDGE - 130):.1f},{HEIGHT - EDGE - y * (HEIGHT - 2 * EDGE):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/><text x="{EDGE}" y="20" font-size="13">{title}</text>',
    ]
    for k in range(6):
        (x, y), (right, _) = place(0, k / 5).split(","), place(x_max, k / 5).split(",")
        parts.append(f'<path d="M{x},{y}H{right}" stroke="#ddd"/><text x="8" y="{y}">{20 * k} %</text>')
    if diagonal:
        parts.append(f'<path d="M{place(0, 0)}L{place(x_max, 1)}" stroke="#999" stroke-dasharray="4"/>')
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(place(x, y) for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - 124}" y="{60 + 18 * number}" fill="{colour}">{name}</text>')
    parts.append(f'<text x="{EDGE}" y="{HEIGHT - 14}">{x_label} (right edge: {x_max:g})</text></svg>')
    return "\n".join(parts) + "\n"


def training_curve(run: Path) -> str:
    """Share of inferred pixels within 10 % over the steps, on each folder of held-out examples."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    suffix = ".inferred_within_10pct"
    names = dict.fromkeys(key for row in rows for key in row if key.endswith(suffix))
    lines: dict[str, Points] = {
        name.removeprefix("validation.").removesuffix(suffix): [(row["step"], row[name]) for row in rows if name in row]
        for name in names
    }
    last = max(row["step"] for row in rows)
    return chart("Inferred pixels within 10 % of the truth", "steps", lines, x_max=last)


def main() -> None:
    """Validate, calibrate, write weights and card, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="--out of `reconx train depth`")
    parser.add_argument("data", type=Path, help="--data of the same")
    parser.add_argument("--groups", type=int, default=64, help="held-out groups per folder")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    loaded = load_completion(arguments.run / TRAINED_NAME)

    def predictor(views: Sequence[CompletionView], unit: float) -> list[Prediction]:
        return predict(loaded.network, views, unit)

    folders = {"rooms": arguments.data / "validation"}
    folders |= {path.name: path for path in sorted((arguments.data / "real_validation").glob("*/"))}
    found = {
        name: scored(predictor, [load_example(p) for p in example_paths(folder)[: arguments.groups]])
        for name, folder in folders.items()
    }
    card: dict[str, Any] = {k: v for k, v in loaded.card.items() if k not in ("purpose", "licence")}
    description = arguments.data / "data.json"
    write_shipped(
        SHIPPED_NAME,
        (arguments.run / TRAINED_NAME).read_bytes(),
        purpose="depth of every pixel that a camera saw (pointmap.completion)",
        licence_weights="Apache-2.0",
        **{
            **card,
            "data": json.loads(description.read_text(encoding="utf-8")),
            "validation": {name: scores.summary() for name, scores in found.items()},
            "calibration": calibration(found.values()),
        },
    )
    write_text(arguments.images / "depth_training.svg", training_curve(arguments.run))
    claims: dict[str, Points] = {
        name: [(row["claimed"], row["right"]) for row in scores.deciles()] for name, scores in found.items()
    }
    write_text(
        arguments.images / "depth_reliability.svg",
        chart("Share within 5 % over the chance claimed", "claimed chance", claims, x_max=1.0, diagonal=True),
    )


if __name__ == "__main__":
    main()
