"""Whether a job far away still lives: what was heard of it, and what to do when nothing is. Needs no ROS."""

from __future__ import annotations

import enum
from dataclasses import dataclass

ODD_SILENCE_S = 5.0
"""The server is heard every second; after so many without a word the link is taken to be broken."""
ASK_AGAIN_S = 10.0
"""Time between two questions for a result that may have been lost on the way."""
QUEUED = "queued"
"""Stage of a job that waits for others; it needs no progress."""


class Advice(enum.Enum):
    """What the robot should do about its running job."""

    WAIT = "wait"
    TELL_LOST = "tell lost"
    TELL_BACK = "tell back"
    GIVE_UP = "give up"


@dataclass
class JobLink:
    """What was heard of one running job; times by a monotonic clock in seconds.

    A job ends by lack of progress, never by a total of time: the server repeats its last word each second, so that
    silence means a broken link or a dead server, and the same word for long means a job that is stuck.

    Attributes:
        started_s: when it was sent.
        stage: of the newest word.
        fraction: of the newest word, in [0, 1].
        lost: whether the link is taken to be broken.
    """

    started_s: float
    stage: str = QUEUED
    fraction: float = 0.0
    lost: bool = False
    _message: str = ""
    _present: bool = True
    _returned: bool = False

    def __post_init__(self) -> None:
        self._heard_s = self._moved_s = self._asked_s = self.started_s

    def heard(self, now_s: float) -> None:
        """Any answer came."""
        self._heard_s = now_s

    def progress(self, now_s: float, stage: str, fraction: float, message: str) -> None:
        """A word about the job came."""
        if (stage, fraction, message) != (self.stage, self.fraction, self._message) or stage == QUEUED:
            self._moved_s = now_s
        self._heard_s = now_s
        self.stage, self.fraction, self._message = stage, fraction, message

    def silent_s(self, now_s: float) -> float:
        """Seconds without any word."""
        return now_s - self._heard_s

    def advice(self, now_s: float, *, present: bool, silence_s: float, stall_s: float) -> tuple[Advice, str]:
        """What to do, and why in one clause.

        Args:
            now_s: present time.
            present: whether anybody offers the action now, as DDS discovery knows it; late by some seconds.
            silence_s: silence after which the job is given up.
            stall_s: time without progress after which it is given up.
        """
        self._returned |= present and not self._present
        self._present = present
        silent_s, still_s = self.silent_s(now_s), now_s - self._moved_s
        if silent_s > silence_s:
            return Advice.GIVE_UP, f"has been silent for {silent_s:.0f} s"
        if still_s > stall_s:
            return Advice.GIVE_UP, f"made no progress in {still_s:.0f} s ({self.stage}, {100 * self.fraction:.0f} %)"
        lost = not present or silent_s > ODD_SILENCE_S
        if lost and not self.lost:
            self.lost = True
            return Advice.TELL_LOST, self.trouble(now_s, silence_s)
        if self.lost and not lost:
            self.lost = False
            return Advice.TELL_BACK, "is heard again"
        return Advice.WAIT, ""

    def should_ask(self, now_s: float) -> bool:
        """Whether to ask for the result again: its answer is lost when the server was gone, and may be after silence.

        A server that was started anew answers that it does not know the job, so that the robot need not wait.
        """
        late = self._present and min(self.silent_s(now_s), now_s - self._asked_s) > ASK_AGAIN_S
        if not (self._returned or late):
            return False
        self._returned, self._asked_s = False, now_s
        return True

    def trouble(self, now_s: float, silence_s: float) -> str:
        """One clause while the link is broken; empty while it works."""
        if not self.lost:
            return ""
        gone = "" if self._present else " and its action is gone"
        silent = f"no word from the reconstruction server for {self.silent_s(now_s):.0f} s{gone}"
        return f"{silent}, the job is kept until {silence_s:.0f} s"
