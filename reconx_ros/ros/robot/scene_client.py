"""The robot's side of the server's ~/load_scene: after a map was loaded, the server draws the scene saved with it."""

from __future__ import annotations

from pathlib import Path

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from std_msgs.msg import Header

from reconx_ros.ros.graph.calls import NoAnswerError, call_service
from reconx_ros.srv import LoadMap

_TIMEOUT_S = 30.0
_DISCOVERY_S = 2.0  # a server that has just started may not be seen yet


class SceneClient:
    """Asks the reconstruction server to draw a saved scene.

    Args:
        node: asks in its name.
        server: name of the server's node, relative to this node's namespace or absolute.
        group: reentrant group, so that an answer can come while a service callback waits for it.
    """

    def __init__(self, node: Node, server: str, group: CallbackGroup) -> None:
        self._node = node
        self._client = node.create_client(LoadMap, f"{server}/load_scene", callback_group=group)

    def close(self) -> None:
        """Stop asking."""
        self._node.destroy_client(self._client)

    def load(self, scene: Path | None, header: Header) -> str:
        """Have a scene drawn from now on, waiting for it; never called on the executor's only thread.

        Args:
            scene: file on the server's computer; None when the map has none.
            header: frame and stamp of the scene.

        Returns:
            What became of it, in a few words.
        """
        if scene is None:
            return "the map holds no scene to draw"
        if not self._client.wait_for_service(timeout_sec=_DISCOVERY_S):
            return f"its scene {scene} is not drawn: the reconstruction server is not there"
        try:
            response = call_service(self._client, LoadMap.Request(header=header, path=str(scene)), _TIMEOUT_S)
        except NoAnswerError:
            return f"its scene {scene} is not drawn yet: the reconstruction server did not answer in {_TIMEOUT_S:g} s"
        if response is None or not response.success:
            reason = "it did not answer" if response is None else response.message
            return f"its scene is not drawn by the reconstruction server: {reason}"
        return "the reconstruction server draws its scene"
