"""``reconx evaluate BAG``: a bag through the real nodes, every k-th image withheld, drawn from the map and scored."""

from __future__ import annotations

import argparse
import bisect
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconx_ros.cli.common import Progress, write_json
from reconx_ros.cli.replay_session import (
    Messages,
    Replay,
    Replayed,
    add_topic_arguments,
    bag_config,
    chosen_topics,
    play_through_nodes,
)
from reconx_ros.cli.ros_run import draw_recording, save_recording, summarise
from reconx_ros.core import Frame, InvalidInputError, Job
from reconx_ros.core.machine import load_average, machine
from reconx_ros.core.settings import updated
from reconx_ros.evaluation.live_record import LiveRecord
from reconx_ros.pipeline.config import ReconxConfig

if TYPE_CHECKING:
    from reconx_ros.evaluation.heldout import HeldOutTask
    from reconx_ros.evaluation.layout import Metrics
    from reconx_ros.io.bag_choice import BagTopics
    from reconx_ros.io.bags import BagReader

_NS = 1e9
_BAG_SUFFIXES = (".mcap", ".db3")


def add_bag_arguments(parser: argparse.ArgumentParser) -> None:
    """--every, --rate and the topics, which only bags need."""
    group = parser.add_argument_group("for a bag")
    group.add_argument("--every", type=int, default=4, metavar="K", help="withhold every K-th image from the nodes")
    group.add_argument("--rate", type=float, default=1.0, help="playing speed; 1 is real time")
    group.add_argument("--use-depth", action="store_true", help="give the bag's depth to the nodes")
    add_topic_arguments(group)


def is_bag(path: Path) -> bool:
    """Whether a path is a bag: a folder with metadata.yaml or such files, or one file of a bag."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(f.suffix in _BAG_SUFFIXES for f in path.iterdir())
    return path.suffix in _BAG_SUFFIXES


def evaluate_bag(bag: Path, out: Path, arguments: argparse.Namespace, *, command: str) -> Metrics:
    """Play, withhold, draw, score; write the evaluation's folder.

    Args:
        bag: folder or file.
        out: the evaluation's folder.
        arguments: of the command line.
        command: noted in metrics.json.

    Raises:
        InvalidInputError: when the bag has too few images, no transforms, or --every leaves nothing.
        ReconstructionError: when the nodes fail.
        StorageError: when something cannot be read or written.
    """
    from reconx_ros.evaluation.bag_task import withheld_stamps
    from reconx_ros.io.bag_decode import stamp_ns
    from reconx_ros.io.bags import open_bag

    started = time.perf_counter()
    with open_bag(bag) as reader:
        topics = chosen_topics(reader, arguments)
        config = bag_config(reader, topics, out, arguments)
        stamps = [stamp_ns(m) for m in reader.messages({topics.image})]
        run = _BagRun(
            bag=bag, reader=reader, topics=topics, config=config, out=out, arguments=arguments,
            stamps=sorted(stamps), withheld=withheld_stamps(stamps, arguments.every),
        )  # fmt: skip
        return run.evaluated(command, started)


@dataclass(eq=False, kw_only=True)
class _BagRun:
    """One bag on its way through the nodes."""

    bag: Path
    reader: BagReader
    topics: BagTopics
    config: ReconxConfig
    out: Path
    arguments: argparse.Namespace
    stamps: list[int]
    withheld: set[int]
    published_s: dict[int, float] = field(default_factory=dict)  # stamp of an image to its time on the monotonic clock
    heard_s: dict[int, float] = field(default_factory=dict)  # stamp of a cloud likewise, before the map was asked for
    coverage_s: list[tuple[float, float]] = field(default_factory=list)
    task: HeldOutTask | None = None
    unposed: int = 0
    drawn: list[Any] = field(default_factory=list)

    def evaluated(self, command: str, started: float) -> Metrics:
        """Everything."""
        from reconx_ros.ros.graph.environment import require_ros

        require_ros()
        from reconx_ros.ros.tools.bag_evaluation import TimingTopicRecorder

        replay = Replay(
            rate=self.arguments.rate, quiet=self.arguments.quiet,
            select=self._selected, recorder=TimingTopicRecorder, on_idle=self._note_clouds, on_finished=self._draw,
        )  # fmt: skip
        played = play_through_nodes(self.reader, self.topics, self.config, self.out, replay)
        return self._written(played, command, started)

    def _selected(self, messages: Messages) -> Iterator[Any]:
        """All but the withheld images and the depth that belongs to them; notes when each image was published."""
        from reconx_ros.io.bag_decode import stamp_ns

        topics = self.topics
        for message in messages:
            if message.topic not in (topics.image, topics.depth):
                yield message
                continue
            stamp = stamp_ns(message)
            if self._is_withheld(stamp, is_depth=message.topic == topics.depth):
                continue
            yield message
            if message.topic == topics.image:  # the player asks for the next one after it has published this one
                self.published_s[stamp] = time.monotonic()

    def _is_withheld(self, stamp: int, *, is_depth: bool) -> bool:
        if not is_depth:
            return stamp in self.withheld
        place = bisect.bisect_left(self.stamps, stamp)
        return min(self.stamps[max(place - 1, 0) : place + 1], key=lambda s: abs(s - stamp)) in self.withheld

    def _note_clouds(self, session: Any, recorder: Any) -> None:
        del session
        self.heard_s = dict(recorder.cloud_heard_s)

    def _draw(self, session: Any, recorder: Any) -> None:
        """Ask the server for the withheld views, while it still runs."""
        self.coverage_s = [*recorder.coverage_s, (time.monotonic(), recorder.coverage_s[-1][1])]
        from reconx_ros.evaluation.bag_task import bag_task
        from reconx_ros.evaluation.heldout import posed
        from reconx_ros.ros.tools.bag_evaluation import ViewClient

        keyframes = {i: k.stamp_ns for i, k in recorder.recording.keyframes.items()}
        self.task, self.unposed = bag_task(
            self.bag.name, self._all_frames(), keyframes=keyframes, withheld=self.withheld, every=self.arguments.every,
            max_size=self.arguments.size,
        )  # fmt: skip
        count = len(self.task.tests)
        progress = Progress(quiet=self.arguments.quiet)
        views = [(f.camera, posed(f)) for f in self.task.tests]
        self.drawn = ViewClient(session).draw(
            views, on_view=lambda k: progress("drawing", k / count, f"{k} of {count}")
        )
        progress.close()

    def _all_frames(self) -> Iterator[Frame]:
        """All images of the bag through the ingest of the nodes, with depth where there is any."""
        from reconx_ros.io.bag_frames import BagFrames

        ros = updated(self.config, {"ros.use_depth": self.topics.depth is not None}).ros
        yield from BagFrames(self.reader, self.topics, ros, max_size=self.arguments.size)

    def _written(self, played: Replayed, command: str, started: float) -> Metrics:
        from reconx_ros.evaluation.bag_task import drawn_part, score_drawn
        from reconx_ros.evaluation.layout import EvaluationFolder, Metrics, Run, RunSetting, as_json
        from reconx_ros.evaluation.protocol import test_views
        from reconx_ros.evaluation.report.page import write_evaluation_page
        from reconx_ros.evaluation.suite import write_metrics
        from reconx_ros.evaluation.summary import summarise as summary_rows
        from reconx_ros.evaluation.visibility import observed_masks
        from reconx_ros.pipeline.report import versions

        assert self.task is not None
        task, drawn, refused = drawn_part(self.task, self.drawn)
        setting = RunSetting(scene=self.bag.name, views=len(task.keyframes), poses="tf", seed=0)
        folder = EvaluationFolder(root=self.out)
        place = folder.run(setting)
        masks, observed_by = observed_masks(task, self.config, job=Job(stage="visibility"))
        report = summarise(played.recording, played.reports)
        last = played.reports[-1]
        facts = {"gaussians": last.get("gaussians"), "scene_keyframes": len(last["keyframe_ids"]),
                 "points": report["points"], "diagnostics": report["diagnostics"]}  # fmt: skip
        methods = score_drawn(task, drawn, masks, place, facts=facts)
        self._save_map(played, place.root, report)
        run = Run(
            setting=setting, protocol=task.protocol, fingerprint="", metric_scale=report["metric_scale"],
            observed_by=observed_by, lpips="unavailable: bags are scored without it", inputs=task.input_names,
            tests=test_views(task, masks), methods=methods, stages=tuple(report["stages"]),
            config=last.get("config", {}), versions=versions(), warnings=tuple(report["warnings"]),
            seconds=time.perf_counter() - started, live=self._live(played, report, refused).as_mapping(),
        )  # fmt: skip
        write_json(place.run_json, as_json(run))
        metrics = Metrics(
            runs=(run,), summary=summary_rows((run,)), command=command, versions=versions(), machine=machine(),
            seconds=run.seconds,
        )  # fmt: skip
        write_metrics(metrics, folder)
        write_evaluation_page(self.out)
        return metrics

    def _save_map(self, played: Replayed, place: Path, report: dict[str, Any]) -> None:
        """The map's own files and pages beside its pictures."""
        place.mkdir(parents=True, exist_ok=True)
        save_recording(played.recording, played.server_folder, place)
        draw_recording(played.recording, place, title=self.bag.name, report=report)

    def _live(self, played: Replayed, report: dict[str, Any], refused: dict[str, int]) -> LiveRecord:
        began = min(self.published_s.values())
        not_drawn = {**refused, **({"no pose at its stamp, or not usable": self.unposed} if self.unposed else {})}
        waits = [
            (heard - began, heard - self.published_s[stamp])
            for stamp, heard in self.heard_s.items()
            if stamp in self.published_s
        ]
        coverage = [(max(at - began, 0.0), share) for at, share in self.coverage_s]
        return LiveRecord(
            every=self.arguments.every,
            rate=self.arguments.rate,
            length_s=(self.stamps[-1] - self.stamps[0]) / _NS,
            frames=len(self.stamps),
            withheld=len(self.withheld),
            not_drawn=not_drawn,
            keyframes=report["keyframes"],
            reconstructions=report["reconstructions"],
            frames_dropped=report["frames_dropped"],
            coverage=tuple(coverage),
            clouds=tuple(waits),
            callback_ms=report["callback_ms"],
            machine_load=load_average(),
        )


def check_bag_arguments(paths: list[Path]) -> Path | None:
    """The bag, when the command line names one; None when it names scenes.

    Raises:
        InvalidInputError: when it names a bag and something beside it.
    """
    bags = [p for p in paths if is_bag(p)]
    if not bags:
        return None
    if len(paths) > 1:
        raise InvalidInputError(f"{bags[0]} is a bag, which is evaluated by itself, not with {len(paths) - 1} more")
    return bags[0]


def live_rows(metrics: Metrics) -> list[tuple[str, str]]:
    """Rows of the printed table that only bags have."""
    from reconx_ros.evaluation.live_record import live_record

    record = live_record(metrics.runs[0].live)
    assert record is not None
    waits = ", ".join(f"{wait:.1f}" for _, wait in record.clouds) or "none before the end of the bag"
    coverage = f"{record.coverage[0][1]:.2f} to {record.coverage[-1][1]:.2f}" if record.coverage else "never reported"
    dropped = json.dumps(dict(record.frames_dropped)) if record.frames_dropped else "none"
    return [
        ("images", f"{record.frames}, {record.withheld} withheld, not used: {dropped}"),
        ("keyframes", f"{record.keyframes}, {record.reconstructions} reconstructions"),
        ("image to cloud, s", waits),
        ("coverage", coverage),
        ("image callback", f"p50 {record.callback_ms['p50']:.2f} ms, p99 {record.callback_ms['p99']:.2f} ms"),
    ]
