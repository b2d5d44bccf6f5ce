"""What only running nodes can tell about an evaluation: ``Run.live``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class LiveRecord:
    """A bag through the nodes. Times are seconds on the clock on the wall since the first image was published.

    Attributes:
        every: each so many-th frame was withheld from the nodes.
        rate: playing speed; 1 is real time.
        length_s: of the bag, from the first to the last image; it is over at ``length_s / rate``.
        frames, withheld: images in the bag with a pose, and how many of them were withheld.
        not_drawn: withheld frames that could not be drawn, by reason.
        keyframes, reconstructions: counts of the node.
        frames_dropped: by reason, as the node reports them.
        coverage: (time, mean coverage of the recent views in [0, 1]) whenever it changed; 0 before the first map.
        clouds: (time at which a cloud with a new newest keyframe arrived, seconds since that keyframe's image was
            published), in order of arrival, for reconstructions that the nodes began by themselves. The stamp of a
            cloud is that of its newest keyframe.
        callback_ms: percentiles of the image callback, "p50" and "p99".
        machine_load: load average of the computer at the end, over one minute; None where unknown.
    """

    every: int
    rate: float
    length_s: float
    frames: int
    withheld: int
    not_drawn: Mapping[str, int] = field(default_factory=dict)
    keyframes: int = 0
    reconstructions: int = 0
    frames_dropped: Mapping[str, int] = field(default_factory=dict)
    coverage: tuple[tuple[float, float], ...] = ()
    clouds: tuple[tuple[float, float], ...] = ()
    callback_ms: Mapping[str, float] = field(default_factory=dict)
    machine_load: float | None = None

    def as_mapping(self) -> dict[str, Any]:
        """For ``Run.live``."""
        return asdict(self)


def live_record(values: Mapping[str, Any]) -> LiveRecord | None:
    """The record in ``Run.live``; None where it is empty.

    Raises:
        TypeError: for a mapping of another form.
    """
    if not values:
        return None
    pairs = {name: tuple((float(a), float(b)) for a, b in values.get(name) or ()) for name in ("coverage", "clouds")}
    return LiveRecord(**{**values, **pairs})
