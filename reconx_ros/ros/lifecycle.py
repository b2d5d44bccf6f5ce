"""What both nodes share: transitions that never fail silently, starting by themselves, and spinning to a clean end."""

from __future__ import annotations

import functools
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from reconx_ros.ros.parameters import NodeParameters

_END_S = 5.0
N = TypeVar("N", bound="ManagedNode")
Transition = Callable[[N, LifecycleState], TransitionCallbackReturn]


def reported(transition: Callable[[N], None]) -> Transition[N]:
    """Make a lifecycle callback of a method: an error becomes one logged sentence and a failed transition.

    rclpy itself drops exceptions of these callbacks without a word.
    """

    @functools.wraps(transition)
    def callback(self: N, state: LifecycleState) -> TransitionCallbackReturn:
        del state
        words = transition.__name__.removeprefix("on_")
        try:
            transition(self)
        except Exception as error:
            self.get_logger().error(f"cannot {words}: {error}")
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"{words}: done")
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
    """A lifecycle node with the package's configuration tree as parameters.

    Attributes:
        parameters: declared at birth, so that they can be read before configuration.
        active: whether the node is in the active state.
    """

    def __init__(self, name: str, **node_options: Any) -> None:
        super().__init__(name, **node_options)
        self.active = False
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.parameters = NodeParameters(self, self.on_parameters)
        for sentence in self.parameters.unknown:
            self.get_logger().error(sentence)

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
    node.autostart()
    thread.start()
    stop.wait()
    node.close()
    executor.shutdown(timeout_sec=_END_S)
    thread.join(_END_S)
    node.destroy_node()
    rclpy.shutdown()
    return 0


def _spin_on(executor: MultiThreadedExecutor, node: ManagedNode, stop: threading.Event) -> None:
    """Spin; a callback that raises is reported and ends nothing."""
    while not stop.is_set():
        try:
            executor.spin()
        except ExternalShutdownException:
            stop.set()
        except Exception as error:
            if not stop.is_set():
                text = "".join(traceback.format_exception(error))
                node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}\n{text}")
