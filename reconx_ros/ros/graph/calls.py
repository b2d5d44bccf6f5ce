"""Calls of services from threads that may wait; never from an executor's only thread."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.client import Client


class NoAnswerError(Exception):
    """The service did not answer in time."""


def call_service(client: Client, request: Any, timeout_s: float) -> Any:
    """The response of a service; another thread has to spin the client's node.

    Raises:
        NoAnswerError: when none comes in time; the request is then forgotten.
    """
    answered = threading.Event()
    future = client.call_async(request)
    future.add_done_callback(lambda done: answered.set())
    if not answered.wait(timeout_s):
        client.remove_pending_request(future)
        raise NoAnswerError
    return future.result()
