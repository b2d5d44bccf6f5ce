"""The node on the robot: chooses keyframes, watches coverage, asks the server to reconstruct, publishes the map.

Light: callbacks only keep messages; one thread decodes, waits for transforms and maps. What was mapped is never lost by
a failing server, only by ``~/reset`` or cleanup.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Header

from reconx_ros.io.ingest.camera_input import CameraInput
from reconx_ros.io.ingest.frame_queue import Ingest, Now
from reconx_ros.jobs.data import JobOutcome, JobRequest
from reconx_ros.msg import Status
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.graph.diagnostics import TroubleLog
from reconx_ros.ros.graph.endpoints import name_from_type, topic_publishers
from reconx_ros.ros.graph.environment import return_large_blocks
from reconx_ros.ros.graph.lifecycle import ManagedNode, reported, spin
from reconx_ros.ros.graph.qos import latched_qos, publisher_options, reliable_qos
from reconx_ros.ros.graph.tf import PoseLookup, make_pose_lookup
from reconx_ros.ros.robot import status as node_status
from reconx_ros.ros.robot.input_lane import InputLane
from reconx_ros.ros.robot.input_watch import InputWatch, camera_problems
from reconx_ros.ros.robot.inputs import NodeInputs
from reconx_ros.ros.robot.mailbox import InputCounters
from reconx_ros.ros.robot.map_session import MapSession
from reconx_ros.ros.robot.mapping_thread import MappingThread
from reconx_ros.ros.robot.outputs import Outputs
from reconx_ros.ros.robot.reconstruction_client import ReconstructionClient
from reconx_ros.ros.robot.services import NodeServices

THREADS = 6
_WAITING_S = 0.02  # time between two looks while frames wait
_RESTING_S = 0.25
_REST_PER_WORK = 2.0  # where more comes than can be looked at, two thirds of the time are left to those who receive it
_REPEAT_S = 10.0  # time between two log sentences about the same silent topic


class ReconxNode(ManagedNode):
    """See the module; what it publishes is in ``outputs``, what it serves in ``node_services``."""

    def __init__(self, **node_options: object) -> None:
        self._lane: InputLane | None = None
        super().__init__("reconx_node", "robot", **node_options)
        self._counters = InputCounters()
        self._thread: MappingThread | None = None
        self._session: MapSession | None = None
        self._client: ReconstructionClient | None = None
        self._outputs: Outputs | None = None
        self._served: NodeServices | None = None
        self._lookup: PoseLookup | None = None
        self._inputs: NodeInputs | None = None
        self._ingest: Ingest | None = None
        self._timer: Timer | None = None
        log = self.get_logger()
        self._watch = InputWatch(TroubleLog(log.warning, log.info, _REPEAT_S))
        options = publisher_options("~/status", self._on_incompatible)
        self._status = self.create_publisher(Status, "~/status", latched_qos(), **options)
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jump_handle = self.get_clock().create_jump_callback(threshold, post_callback=self._on_clock_jump)
        self._publish_status()

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """Those that the node's executor serves; the inputs have a lane of their own."""
        lane = self._lane
        yield from super().subscriptions if lane is None else lane.others()

    # Lifecycle ------------------------------------------------------------------------------------------------

    @reported
    def on_configure(self) -> None:
        """Make everything that lasts until cleanup: map, thread, publishers, services, the server's client."""
        self.check_parameters()
        config = self.parameters.config
        self._thread = thread = MappingThread(self._step, self._on_step_error)
        self._outputs = Outputs(self, self._on_incompatible, config.output.novel_views)
        self._client = ReconstructionClient(self, config.ros.server, ReentrantCallbackGroup(), self._on_job_done)
        self._session = MapSession(config, self._outputs, self._client, self.get_logger())
        self._served = NodeServices(self, self._session, thread, self._pause, self._forget)
        self._lane = lane = InputLane(self)
        self._lookup = make_pose_lookup(self, lane.group, thread.wake, config.ros.max_pose_gap_s)
        lane.wake()
        self._ingest = Ingest(self._lookup, self._counters.drops, self._jumped)
        self._timer = self.create_timer(config.ros.status_period_s, self._publish_status, clock=self.steady)
        thread.start()

    @reported
    def on_activate(self) -> None:
        """Subscribe."""
        assert self._lookup is not None
        assert self._thread is not None
        ros = self.parameters.config.ros
        self._watch.start_over()
        assert self._lane is not None
        self._inputs = NodeInputs(self, ros, self._lookup, self._counters, self._thread.wake, self._lane)
        self.active = True

    @reported
    def on_deactivate(self) -> None:
        """Unsubscribe; keyframes and map stay, a running job goes on."""
        self.active = False
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            inputs.close()

    def close(self) -> None:
        """As ManagedNode."""
        self.active = False
        if self._lane is not None:
            self._lane.stop()
        if self._thread is not None:
            self._thread.stop()

    def after_transition(self) -> None:
        """As ManagedNode."""
        self._publish_status()

    def release(self) -> None:
        """Forget everything."""
        self.close()
        if self._timer is not None:
            self.destroy_timer(self._timer)
        for part in (self._inputs, self._served, self._lookup, self._client, self._outputs):
            if part is not None:
                part.close()
        self._inputs = self._served = self._lookup = self._client = self._outputs = None
        self._session = self._ingest = self._thread = self._timer = self._lane = None
        self._counters.clear()

    def on_parameters(self, config: ReconxConfig) -> None:
        """As ManagedNode."""
        thread, session = self._thread, self._session
        if thread is not None and session is not None:
            thread.submit(lambda: session.configure(config))

    # Mapping thread -------------------------------------------------------------------------------------------

    def _step(self) -> float:
        session, ingest, inputs = self._session, self._ingest, self._inputs
        if session is None or ingest is None:
            return _RESTING_S
        session.step()
        if inputs is None:
            ingest.clear("not_active")
            return _RESTING_S
        config, started_s = self.parameters.config, time.monotonic()
        for camera, msg, arrived_s in inputs.mailbox.take_all():
            ingest.put(camera, msg, arrived_s, config.ros.queue_size)
        for frame, optical_frame in ingest.take_ready(config.ros, config.keyframes.max_size, self._now()):
            self._watch.took_frame(time.monotonic())
            session.add_frame(frame, optical_frame)
        if inputs.mailbox.overflowed() and self._thread is not None:
            self._thread.rest(_REST_PER_WORK * (time.monotonic() - started_s))
        return _WAITING_S if ingest.waiting else _RESTING_S

    def _on_step_error(self, error: Exception) -> None:
        sentence = f"a frame was not mapped: {type(error).__name__}: {error}"
        self._counters.drops.add("error")
        if self._session is not None:
            self._session.facts.last_error = sentence
        self.get_logger().error(sentence)

    def _on_job_done(self, request: JobRequest, outcome: JobOutcome) -> None:
        thread, session = self._thread, self._session
        if thread is not None and session is not None:
            thread.submit(lambda: session.take_outcome(request, outcome)).add_done_callback(self._report)

    def _report(self, future: object) -> None:
        error = getattr(future, "exception", lambda: None)()
        if error is not None:
            self._on_step_error(error)

    def _on_clock_jump(self, jump: TimeJump) -> None:
        sentence = f"the clock jumped back by {-jump.delta.nanoseconds / 1e9:.3f} s"
        now_ns = self._now().ros_ns
        if self._thread is not None:
            self._thread.submit(lambda: self._jumped(sentence, now_ns))

    def _jumped(self, sentence: str, now_ns: int) -> None:
        """On the mapping thread: what belongs to the former time is forgotten, the map stays."""
        if self._lookup is not None:
            self._lookup.clear()
        if self._ingest is not None:
            self._ingest.clear("time_jump")
        for camera in self._cameras():
            camera.start_over()
        if self._session is not None:
            self._session.time_jumped(sentence, now_ns)

    def _cameras(self) -> tuple[CameraInput, ...]:
        inputs = self._inputs
        return tuple(inputs.cameras.values()) if inputs is not None else ()

    def _now(self) -> Now:
        simulated = bool(self.get_parameter("use_sim_time").value)
        return Now(steady_s=time.monotonic(), ros_ns=int(self.get_clock().now().nanoseconds), simulated=simulated)

    # Requests -------------------------------------------------------------------------------------------------

    def _pause(self, paused: bool) -> str:
        inputs = self._inputs
        if inputs is None:
            return "the node is not active, nothing changes"
        inputs.paused = paused
        if paused:
            inputs.mailbox.clear("paused")
        self._publish_status()
        return "paused: images are ignored" if paused else "resumed"

    def _forget(self) -> None:
        if self._inputs is not None:
            self._inputs.mailbox.clear("reset")
        if self._ingest is not None:
            self._ingest.clear("reset")
        for camera in self._cameras():
            camera.problems = {}
        self._counters.clear()
        self._watch.start_over()

    # Reports --------------------------------------------------------------------------------------------------

    def _on_incompatible(self, topic: str, policy: str) -> None:
        self.get_logger().warning(f"a subscriber of {topic} wants an incompatible {policy} policy and gets nothing")

    def _situation(self) -> node_status.Situation | None:
        session, ingest, client = self._session, self._ingest, self._client
        if session is None or ingest is None or client is None:
            return None
        return node_status.Situation(
            thinning=self._outputs.thinning if self._outputs is not None else "",
            trouble=client.trouble(self.parameters.config.ros.server_timeout_s),
            next_try_s=session.next_try_s,
            active=self.active,
            paused=self._inputs is not None and self._inputs.paused,
            usable_frame=self._watch.usable_frame,
            starved=self._watch.starved,
            absence=client.absence,
            facts=session.facts,
            problems=camera_problems(self._cameras()),
            progress=client.progress,
        )

    def _publish_status(self) -> None:
        situation, frame_id = self._situation(), self.parameters.config.ros.map_frame
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=frame_id)
        if situation is not None:
            self._status.publish(node_status.status_msg(situation, self._counters, header))
        else:
            self._status.publish(node_status.unconfigured_msg(self.failure, header))

    def statuses(self) -> list[DiagnosticStatus]:
        """As ManagedNode."""
        situation = self._situation()
        if situation is None or self._lookup is None:
            return []
        ros = self.parameters.config.ros
        waiting = self._ingest.waiting if self._ingest is not None else ()
        now, clocks = (
            self._now(),
            [p.node for p in topic_publishers(self, "/clock", name_from_type(Clock), reliable_qos())],
        )
        return [
            *self._watch.look(self._inputs, ros, self._lookup, waiting, now),
            node_status.mapping_status(situation, self._counters),
            node_status.server_status(situation),
            node_status.storage_status(situation.facts),
            *node_status.clock_status(now, clocks, situation.facts.jump, self.parameters.unknown),
        ]


def main(make: Callable[[], ManagedNode] = ReconxNode) -> int:
    """Run the node; its threads take turns each millisecond, so that mapping holds no input up."""
    sys.setswitchinterval(1e-3)
    return_large_blocks()
    return spin(make, THREADS)


if __name__ == "__main__":
    raise SystemExit(main())
