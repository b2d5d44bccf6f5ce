"""What both nodes share: transitions that never fail silently, starting by themselves, and spinning to a clean end."""

from __future__ import annotations

import functools
import math
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from reconx_ros.core.settings import NodeRole
from reconx_ros.ros.graph import diagnostics
from reconx_ros.ros.graph.diagnostics import DiagnosticsPublisher
from reconx_ros.ros.graph.parameters import NodeParameters

_END_S = 5.0
_POLL_S = 0.05
_PASSING_S = 0.1  # an error that does not pass by itself comes again within this time
_HEED_S = 0.5  # at most this long until a signal is heeded
_STATE_AFTER = {
    "configure": "inactive",
    "activate": "active",
    "deactivate": "inactive",
    "cleanup": "unconfigured",
    "shutdown": "finalized",
}
N = TypeVar("N", bound="ManagedNode")
Transition = Callable[[N, LifecycleState], TransitionCallbackReturn]


def reported(transition: Callable[[N], None]) -> Transition[N]:
    """Make a lifecycle callback of a method: an error fails the transition and is one sentence in log and diagnostics.

    rclpy itself drops exceptions of these callbacks without a word.
    """

    @functools.wraps(transition)
    def callback(self: N, state: LifecycleState) -> TransitionCallbackReturn:
        del state
        words = transition.__name__.removeprefix("on_")
        try:
            transition(self)
        except Exception as error:
            self.transition_failed(words, str(error) or type(error).__name__)
            return TransitionCallbackReturn.FAILURE
        self.transition_done(words)
        return TransitionCallbackReturn.SUCCESS

    return callback


def answered(node: Node, callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The callback, but an unexpected error becomes an answer: without one the client would wait for ever."""

    def answer(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:
            response.success = False
            response.message = f"the request failed unexpectedly: {type(error).__name__}: {error}"
            node.get_logger().error(response.message)
            return response

    return answer


class ManagedNode(LifecycleNode):
    """A lifecycle node with its part of the package's configuration tree as parameters.

    Args:
        name: of the node.
        role: "robot" or "server": which settings it reads.
        node_options: of rclpy.

    Attributes:
        parameters: declared at birth, so that they can be read before configuration.
        active: whether the node is in the active state.
        diagnostics: publishes from birth, also why a transition failed.
        failure: one sentence about the newest transition; empty when it went well.
    """

    def __init__(self, name: str, role: NodeRole, **node_options: Any) -> None:
        super().__init__(name, **node_options)
        self.active = False
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.failure = ""
        self._lifecycle_state = "unconfigured"
        self.parameters = NodeParameters(self, role, self.on_parameters)
        self.diagnostics = DiagnosticsPublisher(self, [self._lifecycle_statuses, self.statuses], self.steady)
        for sentence in self.parameters.unknown:
            self.get_logger().error(sentence)

    def statuses(self) -> list[DiagnosticStatus]:
        """What the node itself has to say on /diagnostics, in every state."""
        return []

    @reported
    def on_cleanup(self) -> None:
        """Let go of everything."""
        self.release()

    @reported
    def on_shutdown(self) -> None:
        """As cleanup."""
        self.release()

    def release(self) -> None:
        """Let go of what configuring made."""

    def undo(self, transition: str) -> None:
        """A transition failed half-way: let go of what it made; activation makes nothing that lasts."""
        if transition == "configure":
            self.release()

    def after_transition(self) -> None:
        """A transition went well or failed."""

    def transition_done(self, transition: str) -> None:
        """Note and log that a transition went well."""
        self.failure, self._lifecycle_state = "", _STATE_AFTER[transition]
        self.get_logger().info(f"{transition}: done")
        self._tell_transition()

    def transition_failed(self, transition: str, reason: str) -> None:
        """Note and log why a transition failed, and undo it."""
        self.failure = f"cannot {transition}: {reason}"
        self.get_logger().error(self.failure)
        try:
            self.undo(transition)
        except Exception as error:
            self.get_logger().error(f"cannot undo {transition}: {error}")
        self._tell_transition()

    def _tell_transition(self) -> None:
        self.after_transition()
        self.diagnostics.publish()

    def _lifecycle_statuses(self) -> list[DiagnosticStatus]:
        level = diagnostics.ERROR if self.failure else diagnostics.OK
        words = self.failure or self._lifecycle_state
        return [diagnostics.status("lifecycle", level, words, {"state": self._lifecycle_state})]

    def on_parameters(self, config: Any) -> None:
        """Dynamic parameters were set; called with the new tree."""

    def check_parameters(self) -> None:
        """Refuse to configure with values that are not valid.

        Raises:
            ConfigError: with all sentences.
        """
        from reconx_ros.core import ConfigError

        if self.parameters.errors:
            raise ConfigError("; ".join(self.parameters.errors))

    def autostart(self) -> None:
        """Configure and activate, if the parameters say so; failures are logged and leave the node up."""
        if self.parameters.config.ros.autostart and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Stop threads and processes; called before the node is destroyed."""


def spin(make: Callable[[], ManagedNode], threads: int) -> int:
    """Run one node until the process is asked to end (SIGINT, SIGTERM); the exit status.

    The signals are taken here and not by rclpy, which would pull the context from under running callbacks.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = make()
    executor = MultiThreadedExecutor(num_threads=threads)
    executor.add_node(node)
    thread = threading.Thread(target=_spin_on, args=(executor, node, stop), name="executor", daemon=True)
    starting = threading.Thread(target=node.autostart, name="autostart", daemon=True)
    starting.start()  # in a thread, so that signals are heard while weights are loaded
    while starting.is_alive() and not stop.is_set():
        starting.join(_POLL_S)
    thread.start()
    while not stop.wait(_HEED_S):  # without a limit, a signal that comes just before the wait begins would go unheard
        pass
    node.close()
    starting.join(_END_S)
    executor.shutdown(timeout_sec=_END_S)
    thread.join(_END_S)
    node.destroy_node()
    rclpy.shutdown()
    return 0


def _spin_on(executor: MultiThreadedExecutor, node: ManagedNode, stop: threading.Event) -> None:
    """Spin; a callback that raises is reported and ends nothing."""
    met_s = -math.inf
    while not stop.is_set():
        try:
            executor.spin()
        except ExternalShutdownException:
            stop.set()
        except Exception as error:
            before_s, met_s = met_s, time.monotonic()
            passes = _met_a_destroyed_entity(error) and met_s - before_s > _PASSING_S
            if not (stop.is_set() or passes):
                text = "".join(traceback.format_exception(error))
                node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}\n{text}")


def _met_a_destroyed_entity(error: Exception) -> bool:
    """Whether rclpy was gathering what to wait for, and a callback in another thread destroyed a part of it meanwhile.

    rclpy's executors wait for what they could not enter all the same. The next round is without it.
    """
    return any(frame.name == "add_to_wait_set" for frame in traceback.extract_tb(error.__traceback__))
