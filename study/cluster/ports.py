"""Ports of this machine for the servers that it starts."""

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
# Linux gives ports to outgoing connections from here on, unless it is set otherwise; other systems start higher.
_EPHEMERAL, _RANGE_FILE = 32768, Path("/proc/sys/net/ipv4/ip_local_port_range")
# A head keeps 10002 to 19999 for its workers (`ray start`).
_FIRST = 20000
_TRIES = 100


def port_problem(port: int) -> str | None:
    """Why a server cannot listen on the port of 127.0.0.1; None if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port in TIME_WAIT is free
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def free_port() -> int:
    """A port of 127.0.0.1 that a server can take a moment later.

    It lies below the ports that the system hands out: of those, any outgoing connection of any process can take one before the
    server does. Where nothing below them is free, the system chooses.
    """
    chosen = random.Random()  # of the system's randomness: a seeded study must not make two processes choose alike
    for _ in range(_TRIES):
        port = chosen.randrange(_FIRST, max(_first_ephemeral(), _FIRST + 1))
        if port_problem(port) is None:
            return port
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _first_ephemeral() -> int:
    try:
        return int(_RANGE_FILE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _EPHEMERAL
