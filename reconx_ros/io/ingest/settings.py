"""Which parameters decide how messages become frames."""

from __future__ import annotations

from typing import Protocol


class IngestSettings(Protocol):
    """The part of the configuration's ``ros`` section that is used here; docs/parameters.md says what each means."""

    @property
    def use_depth(self) -> bool:
        """``ros.use_depth``."""
        ...

    @property
    def depth_sync(self) -> str:
        """``ros.depth_sync``: approximate or exact."""
        ...

    @property
    def depth_tolerance_s(self) -> float:
        """``ros.depth_tolerance_s``."""
        ...

    @property
    def rectified(self) -> bool:
        """``ros.rectified``."""
        ...

    @property
    def map_frame(self) -> str:
        """``ros.map_frame``."""
        ...

    @property
    def optical_frame(self) -> str:
        """``ros.optical_frame``; empty takes the frame of the image's header."""
        ...

    @property
    def pose_source(self) -> str:
        """``ros.pose_source``: tf, odometry or none."""
        ...

    @property
    def tf_timeout_s(self) -> float:
        """``ros.tf_timeout_s``."""
        ...

    @property
    def max_pose_gap_s(self) -> float:
        """``ros.max_pose_gap_s``."""
        ...

    @property
    def zero_stamps(self) -> str:
        """``ros.zero_stamps``: refuse or arrival."""
        ...

    @property
    def queue_size(self) -> int:
        """``ros.queue_size``."""
        ...
