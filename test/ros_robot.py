"""The node under test, as a robot's user sees it: what it publishes, what it answers, what it logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from reconx_ros.msg import Keyframe, Status
from ros_graph import Graph
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from reconx_ros.ros.graph.qos import latched_qos

STUB = "ros_stub_jobs:quick"


class Robot:
    """The node under test with everything it publishes."""

    def __init__(self, made: Graph) -> None:
        self.graph = made
        self.statuses = made.listen(Status, "reconx_node/status", latched_qos())
        self.diagnostics = made.listen(DiagnosticArray, "/diagnostics")
        self.keyframes = made.listen(Keyframe, "reconx_node/keyframe")
        self.points = made.listen(PointCloud2, "reconx_node/points", latched_qos())

    def start(self, **parameters: Any) -> None:
        """Start the node; topics that a test leaves silent for a while are no trouble unless it says so."""
        parameters.setdefault("ros__input_timeout_s", 60.0)
        self.process = self.graph.start("reconx_node", **parameters)

    def start_server(self, target: str = STUB, **parameters: Any) -> None:
        self.graph.start("reconstruction_server", ros__worker_target=target, **parameters)

    def status(self, what: str, condition: Callable[[Status], Any]) -> Status:
        """The newest status for which a condition holds."""

        def found() -> Status | None:
            return self.statuses[-1] if self.statuses and condition(self.statuses[-1]) else None

        result = self.graph.wait(f"status: {what}", found)
        assert result is not None
        return result

    def logged(self, words: str) -> str:
        """The node's log, once it holds the words."""

        def found() -> str:
            text = self.process.text()
            return text if words in text else ""

        return self.graph.wait(f"the log to hold '{words}'", found)

    def dropped(self, reason: str, count: int = 1) -> Status:
        return self.status(f"{count} dropped as {reason}", lambda s: drops(s).get(reason, 0) >= count)

    def diagnosed(self, name: str, words: str) -> DiagnosticStatus:
        """A diagnostic status of this name whose message holds the words."""

        def found() -> DiagnosticStatus | None:
            for msg in reversed(self.diagnostics):
                for status in msg.status:
                    if status.name == f"reconx_node: {name}" and words in status.message:
                        return status
            return None

        return self.graph.wait(f"diagnostics of {name} with '{words}'", found)

    def published_by(self, topic: str) -> str:
        """Which nodes the newest diagnostics say publish a topic."""
        newest = [s for msg in self.diagnostics[-1:] for s in msg.status if s.name == f"reconx_node: input /{topic}"]
        return next((v.value for s in newest for v in s.values if v.key == "published by"), "")

    def trigger(self, name: str = "trigger") -> Trigger.Response:
        return self.graph.call(Trigger, f"reconx_node/{name}", Trigger.Request())

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.graph.call(ChangeState, "reconx_node/change_state", request).success)

    def state(self) -> str:
        return str(self.graph.call(GetState, "reconx_node/get_state", GetState.Request()).current_state.label)


def drops(status: Status) -> dict[str, int]:
    return dict(zip(status.drop_reasons, status.drop_counts, strict=True))
