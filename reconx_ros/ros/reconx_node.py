"""The node on the robot: chooses keyframes, watches coverage, asks the server to reconstruct, publishes the map.

Light: callbacks only keep messages; one thread decodes, waits for transforms and maps. What was mapped is never lost by
a failing server, only by ``~/reset`` or cleanup.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from std_msgs.msg import Header

from reconx_ros.msg import Status
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros import node_status
from reconx_ros.ros.diagnostics import DiagnosticsPublisher
from reconx_ros.ros.ingest import Ingest
from reconx_ros.ros.job_data import JobOutcome, JobRequest
from reconx_ros.ros.lifecycle import ManagedNode, reported, spin
from reconx_ros.ros.mailbox import InputCounters
from reconx_ros.ros.map_session import MapSession
from reconx_ros.ros.mapping_thread import MappingThread
from reconx_ros.ros.node_inputs import NodeInputs
from reconx_ros.ros.node_services import NodeServices
from reconx_ros.ros.outputs import Outputs
from reconx_ros.ros.qos import latched_qos
from reconx_ros.ros.reconstruction_client import ReconstructionClient
from reconx_ros.ros.tf import PoseLookup, make_pose_lookup

THREADS = 6
_WAITING_S = 0.02  # time between two looks while frames wait
_RESTING_S = 0.25
_REPEAT_S = 10.0  # time between two log sentences about the same silent topic


class ReconxNode(ManagedNode):
    """See the module; what it publishes is in ``outputs``, what it serves in ``node_services``."""

    def __init__(self, **node_options: object) -> None:
        super().__init__("reconx_node", **node_options)
        self._counters = InputCounters()
        self._thread: MappingThread | None = None
        self._session: MapSession | None = None
        self._client: ReconstructionClient | None = None
        self._outputs: Outputs | None = None
        self._served: NodeServices | None = None
        self._lookup: PoseLookup | None = None
        self._inputs: NodeInputs | None = None
        self._ingest: Ingest | None = None
        self._diagnostics: DiagnosticsPublisher | None = None
        self._usable_frame = False
        self._logged_s: dict[str, float] = {}
        self._status = self.create_publisher(Status, "~/status", latched_qos())
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jump_handle = self.get_clock().create_jump_callback(threshold, post_callback=self._on_clock_jump)

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
        self._lookup = make_pose_lookup(self, MutuallyExclusiveCallbackGroup(), thread.wake)
        self._ingest = Ingest(self._lookup.lookup, self._counters.drops, self._jumped)
        self._diagnostics = DiagnosticsPublisher(self, [self._statuses], self.steady)
        self._timer = self.create_timer(config.ros.status_period_s, self._publish_status, clock=self.steady)
        thread.start()

    @reported
    def on_activate(self) -> None:
        """Subscribe."""
        assert self._lookup is not None
        assert self._thread is not None
        ros = self.parameters.config.ros
        self._usable_frame = False
        self._inputs = NodeInputs(self, ros, self._lookup, self._counters, self._thread.wake)
        self.active = True
        self._publish_status()

    @reported
    def on_deactivate(self) -> None:
        """Unsubscribe; keyframes and map stay, a running job goes on."""
        self.active = False
        inputs, self._inputs = self._inputs, None
        if inputs is not None:
            inputs.close()
        self._publish_status()

    @reported
    def on_cleanup(self) -> None:
        """Forget everything."""
        self._release()

    @reported
    def on_shutdown(self) -> None:
        """As cleanup."""
        self._release()

    def close(self) -> None:
        """As ManagedNode."""
        self.active = False
        if self._thread is not None:
            self._thread.stop()

    def _release(self) -> None:
        self.close()
        if self._diagnostics is not None:
            self.destroy_timer(self._timer)
        for part in (self._inputs, self._served, self._lookup, self._client, self._outputs, self._diagnostics):
            if part is not None:
                part.close()
        self._inputs = self._served = self._lookup = self._client = self._outputs = self._diagnostics = None
        self._session = self._ingest = self._thread = None
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
        config = self.parameters.config
        for camera, msg, arrived_s in inputs.mailbox.take_all():
            ingest.put(camera, msg, arrived_s, config.ros.queue_size)
        for frame, optical_frame in ingest.take_ready(config, time.monotonic()):
            self._usable_frame = True
            session.add_frame(frame, optical_frame)
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
        if self._thread is not None:
            self._thread.submit(lambda: self._jumped(sentence))

    def _jumped(self, sentence: str) -> None:
        """On the mapping thread: moving transforms and waiting frames belong to the former time, the map stays."""
        if self._lookup is not None:
            self._lookup.clear()
        if self._ingest is not None:
            self._ingest.clear("time_jump")
        for camera in self._inputs.cameras.values() if self._inputs is not None else ():
            camera.newest_ns = 0
        self.get_logger().warning(f"{sentence}; transforms are forgotten, keyframes and map are kept")

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
            self._ingest.problems.clear()
        self._counters.clear()
        self._usable_frame = False

    # Reports --------------------------------------------------------------------------------------------------

    def _on_incompatible(self, topic: str, policy: str) -> None:
        self.get_logger().warning(f"a subscriber of {topic} wants an incompatible {policy} policy and gets nothing")

    def _situation(self) -> node_status.Situation | None:
        session, ingest, client = self._session, self._ingest, self._client
        if session is None or ingest is None or client is None:
            return None
        return node_status.Situation(
            active=self.active,
            paused=self._inputs is not None and self._inputs.paused,
            usable_frame=self._usable_frame,
            absence=client.absence,
            facts=session.facts,
            problems=dict(ingest.problems),
            waiting=ingest.waiting,
            progress=client.progress,
        )

    def _publish_status(self) -> None:
        situation = self._situation()
        if situation is not None:
            frame_id = self.parameters.config.ros.map_frame
            header = Header(stamp=self.get_clock().now().to_msg(), frame_id=frame_id)
            self._status.publish(node_status.status_msg(situation, self._counters, header))

    def _statuses(self) -> list[DiagnosticStatus]:
        situation = self._situation()
        if situation is None or self._lookup is None:
            return []
        ros = self.parameters.config.ros
        self._log_silence()
        simulated = bool(self.get_parameter("use_sim_time").value)
        now_ns = int(self.get_clock().now().nanoseconds)
        source = self._lookup.name if ros.pose_source != "none" else "nowhere: pose_source is none"
        return [
            *node_status.input_statuses(self._inputs, ros),
            node_status.transform_status(situation, source),
            node_status.mapping_status(situation, self._counters),
            node_status.server_status(situation),
            *node_status.clock_status(simulated, now_ns, self.parameters.unknown),
        ]

    def _log_silence(self) -> None:
        inputs, now_s = self._inputs, time.monotonic()
        if inputs is None:
            return
        timeout_s = self.parameters.config.ros.input_timeout_s
        for monitor in inputs.monitors.values():
            problem = monitor.problem(now_s, timeout_s, inputs.publishers_of(monitor.topic))
            if problem and now_s - self._logged_s.get(monitor.topic, -_REPEAT_S) >= _REPEAT_S:
                self._logged_s[monitor.topic] = now_s
                self.get_logger().warning(problem)


def main(make: Callable[[], ManagedNode] = ReconxNode) -> int:
    """Run the node."""
    return spin(make, THREADS)


if __name__ == "__main__":
    raise SystemExit(main())
