"""Several computers on one: network namespaces on a switch, whose cables can be pulled.

The computer of the test itself is a namespace that the calling thread enters, so that everything it makes (sockets of
DDS, child processes) lies there. Other computers also get a /dev/shm and a name of their own, as real ones have.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_SETUP = 'mount -t tmpfs -o size=512m tmpfs /dev/shm && hostname "$0" && exec "$@"'


@functools.cache
def refusal() -> str:
    """Why this computer cannot play several ones; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("nsenter") is None or shutil.which("unshare") is None:
        return "network namespaces need ip, nsenter and unshare"
    try:
        with network(["probe"]) as probed:
            _run(*probed.inside("probe"), "true")
    except subprocess.CalledProcessError as error:
        return f"the system refuses network namespaces: {error.stderr.strip() or error}"
    return ""


class Network:
    """Computers on one switch.

    Args:
        names: of the computers; addresses are 10.99.0.1, 10.99.0.2 and so on.
        multicast: whether the switch carries it; many wireless ones do not.
    """

    def __init__(self, names: list[str], *, multicast: bool = True) -> None:
        self._names = names
        self._multicast = multicast
        self._switch = self._space("switch")

    def _space(self, name: str) -> str:
        return f"reconx{os.getpid()}-{name}"

    def make(self) -> None:
        _run("ip", "netns", "add", self._switch)
        self._on(self._switch, "ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        self._on(self._switch, "ip", "link", "set", "bridge", "up")
        for number, name in enumerate(self._names, 1):
            self._add(number, name)

    def _add(self, number: int, name: str) -> None:
        space = self._space(name)
        _run("ip", "netns", "add", space)
        self._on(space, "ip", "link", "set", "lo", "up")
        self._on(space, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", self._switch)
        self._on(space, "ip", "address", "add", f"10.99.0.{number}/24", "dev", "eth0")
        self._on(space, "ip", "link", "set", "eth0", "up")
        self._on(space, "ip", "route", "add", "default", "dev", "eth0")
        self._on(self._switch, "ip", "link", "set", "dev", name, "master", "bridge", "up")
        if not self._multicast:
            self._on(self._switch, "ip", "link", "set", "dev", name, "type", "bridge_slave", "mcast_flood", "off")

    def remove(self) -> None:
        for name in (*self._names, "switch"):
            subprocess.run(["ip", "netns", "delete", self._space(name)], capture_output=True, check=False)

    def cut(self, name: str) -> None:
        """Pull the cable of a computer."""
        self._on(self._switch, "ip", "link", "set", "dev", name, "down")

    def restore(self, name: str) -> None:
        """Plug it in again."""
        self._on(self._switch, "ip", "link", "set", "dev", name, "up")

    def address(self, name: str) -> str:
        """IPv4 address of a computer."""
        return f"10.99.0.{1 + self._names.index(name)}"

    def carries_multicast(self, sender: str, receiver: str) -> bool:
        """Whether a multicast datagram arrives; a plain one that follows it must."""
        to, group, port = self.address(receiver), "239.255.0.1", 7400
        with self.here(receiver), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing:
            hearing.bind(("", port))
            hearing.settimeout(10)
            membership = socket.inet_aton(group) + socket.inet_aton(to)
            hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            with self.here(sender), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as saying:
                interface = socket.inet_aton(self.address(sender))
                saying.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
                saying.sendto(b"to all", (group, port))
                saying.sendto(b"to one", (to, port))
            return hearing.recv(100) == b"to all"

    def received_bytes(self, name: str) -> int:
        """What a computer's cable has brought it since the start."""
        out = self._on(self._space(name), "cat", "/sys/class/net/eth0/statistics/rx_bytes")
        return int(out)

    def inside(self, name: str) -> list[str]:
        """Words before a command that run it on another computer, as the same process."""
        return [
            *("nsenter", f"--net=/run/netns/{self._space(name)}"),
            *("unshare", "--mount", "--uts", "sh", "-c", _SETUP, name),
        ]

    @contextmanager
    def here(self, name: str) -> Iterator[None]:
        """Let the calling thread be on a computer."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{self._space(name)}").open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def _on(self, space: str, *command: str) -> str:
        return _run("ip", "netns", "exec", space, *command)


@contextmanager
def network(names: list[str], *, multicast: bool = True) -> Iterator[Network]:
    """A network that is taken down whatever happens."""
    made = Network(names, multicast=multicast)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
