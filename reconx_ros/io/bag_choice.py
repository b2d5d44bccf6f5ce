"""Which topics of a bag make frames: the colour camera, its calibration, its depth, its robot's transforms; and why.

Depth is told by encoding, a camera_info by frame, size and place, robots by the namespaces of their transforms: topics
below ``/robot1`` go with ``/robot1/tf``, so that two robots with equal frame names never mix. Names only break ties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconx_ros.core import InvalidInputError
from reconx_ros.io.bag_topics import (
    CLOCK_TYPE,
    IMAGE_TYPES,
    INFO_TYPE,
    ODOMETRY_TYPE,
    TF_TYPE,
    TopicContent,
    base_topic,
    topic_contents,
)
from reconx_ros.io.bags import BagReader

_FEW = 0.5  # a topic with less than this share of the most messages is not chosen over a fuller one


@dataclass(frozen=True, kw_only=True)
class BagTopics:
    """Which topics make a frame; None where there is none.

    Attributes:
        image: colour images, raw or compressed.
        camera_info: their calibration.
        depth, depth_info: depth images, raw or compressed, and their calibration.
        tf, tf_static: transforms of the camera's robot.
        odometry: of the camera's robot.
        clock: the clock of the recording, where it was recorded.
        frame: frame_id of the images.
        rectified: whether the images are rectified already.
        why: reason of each choice, by attribute.
    """

    image: str
    camera_info: str
    depth: str | None = None
    depth_info: str | None = None
    tf: str | None = None
    tf_static: str | None = None
    odometry: str | None = None
    clock: str | None = None
    frame: str = ""
    rectified: bool = False
    why: Mapping[str, str] = field(default_factory=dict, compare=False)


def choose_topics(
    reader: BagReader, *, image: str | None = None, camera_info: str | None = None, depth: str | None = None
) -> BagTopics:
    """The topics of one camera; what is given by name is taken, the rest belongs to it.

    Raises:
        InvalidInputError: when a named topic is not there, is empty or of another type, or no image has a camera_info;
            the message names what the bag holds.
    """
    contents = topic_contents(reader)
    for name, types in ((image, IMAGE_TYPES), (camera_info, (INFO_TYPE,)), (depth, IMAGE_TYPES)):
        _check_named(reader, contents, name, types)
    return _Choice(reader, contents, camera_info=camera_info, depth=depth).topics(image)


def _check_named(
    reader: BagReader, contents: Mapping[str, TopicContent], name: str | None, types: tuple[str, ...]
) -> None:
    if name is None:
        return
    if name not in contents:
        raise InvalidInputError(f"bag {reader.path} has no topic {name}, it has {', '.join(contents)}")
    if contents[name].type not in types:
        raise InvalidInputError(f"topic {name} has type {contents[name].type}, expected {' or '.join(types)}")
    if not contents[name].count:
        raise InvalidInputError(f"topic {name} of bag {reader.path} has no message")


class _Choice:
    """One choice among the topics of a bag."""

    def __init__(
        self, reader: BagReader, contents: Mapping[str, TopicContent], *, camera_info: str | None, depth: str | None
    ) -> None:
        self._reader = reader
        self._contents = contents
        self._full = [c for c in contents.values() if c.count]
        self._infos = [c for c in self._full if c.type == INFO_TYPE]
        self._named_info, self._named_depth = camera_info, depth

    def topics(self, named: str | None) -> BagTopics:
        """The choice, for a named image or the one that a person would take."""
        image = self._contents[named] if named is not None else self._image()
        info = self._info_named_or_of(image)
        if info is None:
            raise InvalidInputError(f"no camera_info of bag {self._reader.path} belongs to {image.name}")
        depth = self._depth(image)
        depth_info = self._own_info(depth) if depth is not None else None
        tf, static = (self._transforms(image, kind) for kind in ("tf", "tf_static"))
        odometry = self._odometry(image)
        clock = next((c for c in self._full if c.type == CLOCK_TYPE and c.name == "/clock"), None)
        why = {
            "image": "named" if named is not None else self._why_image(image),
            "camera_info": "named" if self._named_info else _why_info(image, info),
            "depth": ("named, " if self._named_depth else "") + _why_depth(image, depth) if depth else "",
            "depth_info": _why_info(depth, depth_info) if depth and depth_info else "",
            "tf": self._why_transforms(tf, image),
            "tf_static": self._why_transforms(static, image),
            "odometry": "played when ros.pose_source is odometry" if odometry else "",
            "clock": "the clock of the recording" if clock else "",
        }
        return BagTopics(
            image=image.name,
            camera_info=info.name,
            depth=_name(depth),
            depth_info=_name(depth_info),
            tf=_name(tf),
            tf_static=_name(static),
            odometry=_name(odometry),
            clock=_name(clock),
            frame=image.frame,
            rectified=_is_rectified(image, info),
            why={k: v for k, v in why.items() if v},
        )

    # Image ----------------------------------------------------------------------------------------------------

    def _pictures(self) -> list[TopicContent]:
        return [c for c in self._full if c.type in IMAGE_TYPES and not c.is_depth]

    def _image(self) -> TopicContent:
        usable = [c for c in self._pictures() if self._info_named_or_of(c) is not None]
        if not usable:
            held = ", ".join(f"{c.name} ({c.count})" for c in self._contents.values()) or "none"
            raise InvalidInputError(
                f"bag {self._reader.path} has no image topic with messages and a camera_info that belongs to it, its "
                f"topics are: {held}"
            )
        return min(usable, key=_image_rank(usable))

    def _why_image(self, image: TopicContent) -> str:
        others = len(self._pictures()) - 1
        kind = "grey" if image.is_grey else "colour"
        return f"{kind}, with a camera_info" + (f", before {others} more" if others else "")

    # Calibration ----------------------------------------------------------------------------------------------

    def _info_named_or_of(self, image: TopicContent) -> TopicContent | None:
        if self._named_info is not None:
            return self._contents[self._named_info]
        own = self._own_info(image)
        if own is not None:
            return own
        enclosing = [c for c in self._infos if _encloses(c.folder, image.folder) and self._is_of(c, image)]
        return max(enclosing, key=lambda c: len(c.folder), default=None)

    def _own_info(self, image: TopicContent) -> TopicContent | None:
        """The calibration beside an image, or one that fits in frame and size; None where there is none."""
        near = [c for c in self._infos if self._is_of(c, image)]
        beside = [c for c in near if c.folder == image.folder]
        fitting = [c for c in near if _fits(c, image)]
        for candidates in ([c for c in beside if c in fitting], fitting, beside):
            if candidates:
                return max(candidates, key=lambda c: (_encloses(c.folder, image.folder), _shared(c, image)))
        return None

    # Depth ----------------------------------------------------------------------------------------------------

    def _depth(self, image: TopicContent) -> TopicContent | None:
        if self._named_depth is not None:
            return self._contents[self._named_depth]
        found = [c for c in self._full if c.type in IMAGE_TYPES and c.is_depth and self._is_of(c, image)]
        most = max((c.count for c in found), default=0)

        def rank(c: TopicContent) -> tuple[Any, ...]:
            elsewhere = _differ(c.frame, image.frame)
            hopeless = elsewhere and self._own_info(c) is None
            named = any(word in c.name for word in ("aligned", "registered"))
            told = (c.count < _FEW * most, hopeless, "confidence" in c.name.lower(), elsewhere, -_shared(c, image))
            return (*told, c.size != image.size, not named, c.name)

        return min(found, key=rank, default=None)

    # Robot ----------------------------------------------------------------------------------------------------

    def _robots(self) -> set[str]:
        return {_namespace(c.name) for c in self._full if _is_tf(c)}

    def _robot(self, topic: TopicContent) -> str:
        """The deepest namespace with transforms that a topic lies in; empty for none."""
        return max((r for r in self._robots() if _lies_in(topic.name, r)), key=len, default="")

    def _is_of(self, topic: TopicContent, image: TopicContent) -> bool:
        return self._robot(topic) == self._robot(image)

    def _transforms(self, image: TopicContent, kind: str) -> TopicContent | None:
        """The transforms of the image's namespace or the nearest above; those of the only robot there is."""
        found = [c for c in self._full if _is_tf(c) and c.name.rpartition("/")[2] == kind]
        above = [c for c in found if _lies_in(image.name, _namespace(c.name))]
        if above:
            return max(above, key=lambda c: len(c.name))
        return found[0] if len(self._robots()) == 1 and found else None

    def _why_transforms(self, tf: TopicContent | None, image: TopicContent) -> str:
        if tf is None:
            return ""
        namespace = _namespace(tf.name)
        if not namespace:
            return "the only ones" if len(self._robots()) == 1 else "no nearer ones"
        return "the namespace of the image" if _lies_in(image.name, namespace) else "the only robot's"

    def _odometry(self, image: TopicContent) -> TopicContent | None:
        found = [c for c in self._full if c.type == ODOMETRY_TYPE and self._is_of(c, image)]
        most = max((c.count for c in found), default=0)
        return min(
            found,
            key=lambda c: (c.count < _FEW * most, not c.name.endswith("/odom"), len(c.name), c.name),
            default=None,
        )


def _image_rank(usable: Iterable[TopicContent]) -> Callable[[TopicContent], tuple[Any, ...]]:
    most = max(c.count for c in usable)

    def rank(c: TopicContent) -> tuple[Any, ...]:
        lower = c.name.lower()
        coloured = any(word in lower for word in ("color", "colour", "rgb"))
        odd = any(word in lower for word in ("infra", "depth", "disparity", "debug", "thermal")) and not coloured
        return (not c.is_readable, c.count < _FEW * most, c.is_grey, odd, not coloured and "image" not in lower, c.name)

    return rank


def _is_rectified(image: TopicContent, info: TopicContent) -> bool:
    return base_topic(image.name).rpartition("/")[2].startswith("image_rect") and info.has_projection


def _is_tf(topic: TopicContent) -> bool:
    return topic.type == TF_TYPE and topic.name.rpartition("/")[2] in ("tf", "tf_static")


def _namespace(name: str) -> str:
    return name.rpartition("/")[0]


def _lies_in(name: str, namespace: str) -> bool:
    return not namespace or name.startswith(f"{namespace}/")


def _encloses(folder: str, inner: str) -> bool:
    return folder == inner or not folder or inner.startswith(f"{folder}/")


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)


def _fits(info: TopicContent, image: TopicContent) -> bool:
    return not _differ(info.frame, image.frame) and (image.size is None or info.size == image.size)


def _shared(one: TopicContent, other: TopicContent) -> int:
    """How many leading namespaces two topics share."""
    count = 0
    for a, b in zip(one.name.split("/"), other.name.split("/"), strict=False):
        if a != b:
            break
        count += 1
    return count


def _name(topic: TopicContent | None) -> str | None:
    return None if topic is None else topic.name


def _why_info(image: TopicContent, info: TopicContent) -> str:
    if _fits(info, image):
        return "same frame and size" + (", beside the image" if info.folder == image.folder else "")
    return "beside the image" if info.folder == image.folder else "the nearest above the image"


def _why_depth(image: TopicContent, depth: TopicContent) -> str:
    if _differ(depth.frame, image.frame):
        return f"{depth.encoding} in frame '{depth.frame}': will be registered to the image"
    return f"{depth.encoding} in the frame of the image"
