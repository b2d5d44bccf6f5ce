"""What was thrown away, by reason, and the sentence about it that a person needs first."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

POSE_REASONS = ("no_pose", "pose_too_old", "pose_gap", "bad_pose", "future_stamp")
_USED = "frame_without_depth"  # counted, but such a frame was used
_WORDS = {
    **dict.fromkeys(POSE_REASONS, "have no pose"),
    "no_camera_info": "have no camera_info",
    "bad_camera_info": "have a camera_info that cannot be used",
    "bad_image": "cannot be used",
    "body_frame": "are in a frame that looks along x",
    "zero_stamp": "have no stamp",
    "no_depth": "waited for depth in vain",
}


class DropCounter:
    """How often something was thrown away, by reason; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._sentences: dict[str, str] = {}

    def add(self, reason: str, count: int = 1, sentence: str = "") -> None:
        """Count a drop; ``reason`` is a short identifier such as "no_pose", ``sentence`` what there is to say."""
        with self._lock:
            self._counts[reason] += count
            if sentence:
                self._sentences.setdefault(reason, sentence)

    def sentences(self) -> dict[str, str]:
        """What was said first of each reason."""
        with self._lock:
            return dict(self._sentences)

    def snapshot(self) -> dict[str, int]:
        """All counts, most frequent first."""
        with self._lock:
            return dict(self._counts.most_common())

    def clear(self) -> None:
        """Forget all counts."""
        with self._lock:
            self._counts.clear()
            self._sentences.clear()


def lost_frames(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts of frames that were not used, most frequent first."""
    lost = {r: n for r, n in counts.items() if r != _USED and not r.startswith("depth_")}
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def first_reason(counts: Mapping[str, int], frames: int, sentences: Mapping[str, str]) -> str:
    """Why most of the lost frames were lost, as one sentence with their number; empty where none was lost.

    Args:
        counts: frames by reason.
        frames: how many came altogether.
        sentences: what was said of a reason.
    """
    lost = lost_frames(counts)
    if not lost:
        return ""
    reason, count = next(iter(lost.items()))
    words = _WORDS.get(reason, f"were dropped as {reason}")
    said = sentences.get(reason, "")
    return f"{count} of {frames} frames {words}: {said}" if said else f"{count} of {frames} frames {words}"
