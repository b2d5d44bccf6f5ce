"""A thread of its own for what comes at a high rate: images, calibrations, transforms.

rclpy's executor looks at every service, timer and client of a node before each callback, a few milliseconds of Python;
at a hundred transforms and sixty images a second that is a whole core, and then messages are lost in the queues of DDS.
The lane looks at the input subscriptions alone, and the node's executor no longer at those.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.subscription import Subscription

_JOIN_S = 5.0


class InputLane:
    """Serves the subscriptions of one callback group, one message after the other.

    It stands in an executor of its own where a node would stand, with nothing but these subscriptions. The node has to
    leave them out of its ``subscriptions``; see ``others``.

    Args:
        node: whose subscriptions they are.

    Attributes:
        group: of the subscriptions served here; reentrant, for the lane has one thread and events of the subscriptions,
            which the node's executor serves, must not hold it up.
    """

    def __init__(self, node: Node) -> None:
        self.group = ReentrantCallbackGroup()
        self._node = node
        self._view = _InputsOnly(self)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self._view)
        self._stopping = False
        self._thread = threading.Thread(target=self._spin, name="inputs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look again which subscriptions there are; call after making and after destroying some."""
        self._executor.wake()

    def stop(self) -> None:
        """End the thread; the subscriptions are served no more."""
        self._stopping = True
        self._executor.shutdown(timeout_sec=0.0)
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def served(self) -> list[Subscription]:
        """The subscriptions of the lane."""
        return [s for s in self._all() if s.callback_group is self.group]

    def others(self) -> list[Subscription]:
        """The node's subscriptions that the node's own executor serves."""
        return [s for s in self._all() if s.callback_group is not self.group]

    def _all(self) -> list[Subscription]:
        everything: Any = Node.subscriptions  # the property, below what the node makes of it
        return list(everything.__get__(self._node))

    def _spin(self) -> None:
        while not self._stopping:
            try:
                self._executor.spin()
            except ExternalShutdownException:
                return
            except Exception as error:
                if not self._stopping:
                    text = "".join(traceback.format_exception(error))
                    self._node.get_logger().error(f"an input failed: {type(error).__name__}: {error}\n{text}")


class _InputsOnly:
    """What an executor asks a node for, with the lane's subscriptions and nothing else."""

    def __init__(self, lane: InputLane) -> None:
        self._lane = lane
        self.executor: Any = None

    @property
    def subscriptions(self) -> Iterator[Subscription]:
        """Those of the lane."""
        yield from self._lane.served()

    timers = clients = services = guards = waitables = ()
