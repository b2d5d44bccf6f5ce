"""The web server of the viewer."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import socket
from typing import TYPE_CHECKING

from reconx_ros.core import BackendUnavailableError, InvalidInputError, StorageError

if TYPE_CHECKING:
    import viser

_BRAND = (38, 135, 126)


def require_viser() -> None:
    """Check that viser is installed.

    Raises:
        BackendUnavailableError: when not; the sentence has the command.
    """
    if importlib.util.find_spec("viser") is None:
        raise BackendUnavailableError("the viewer needs the Python package viser: run pip install 'reconx_ros[viewer]'")


def open_server(host: str, port: int, title: str) -> viser.ViserServer:
    """Start serving an empty page.

    Args:
        host: address to listen on; "127.0.0.1" is this computer only, "0.0.0.0" everybody on the network.
        port: TCP port; 0 takes any free one.
        title: shown above the controls.

    Raises:
        BackendUnavailableError: without viser.
        InvalidInputError: for a host that is no address of this computer.
        StorageError: for a port that is in use or not allowed.
    """
    require_viser()
    import viser

    port = usable_port(host, port)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table
        server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
    if server.get_port() != port:  # taken since we looked: viser counts upwards
        close_server(server)
        raise StorageError(_taken(host, port))
    server.gui.configure_theme(
        dark_mode=True,
        show_logo=False,
        show_share_button=False,
        control_width="medium",
        brand_color=_BRAND,
    )
    server.gui.main_panel.dock_right()
    return server


def close_server(server: viser.ViserServer) -> None:
    """Stop serving."""
    with contextlib.redirect_stdout(io.StringIO()):
        server.stop()


def usable_port(host: str, port: int) -> int:
    """The port, or a free one for 0, after a look whether it can be listened on.

    Raises:
        InvalidInputError: for a port outside of 0 to 65535, or a host that is no address of this computer.
        StorageError: when it is in use or not allowed.
    """
    if not 0 <= port <= 65535:
        raise InvalidInputError(f"port is {port}, expected 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            raise StorageError(_taken(host, port)) from None
        if err.errno in (errno.EACCES, errno.EPERM):
            raise StorageError(f"port {port} is not allowed for this user, expected one above 1023") from None
        raise InvalidInputError(f"host is '{host}', expected an address of this computer ({err.strerror})") from None


def _taken(host: str, port: int) -> str:
    return f"port {port} of {host} is in use: choose another one with --port (0 takes any free one)"
