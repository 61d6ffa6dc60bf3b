"""Ports of this machine for services that are started here: free ones, and words for those that cannot be had."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from workbench.errors import ExportError, OptionsError

HOST = "127.0.0.1"
_REMEDY = "Choose another one (--port on the command line); 0 takes a free one."


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different as they are held until the last is found."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def why_not(port: int) -> str:
    """Why a service cannot have a port, as the end of a sentence; empty if it can have it now."""
    if not 0 <= port <= 65535:
        return "is no port: they go from 0 to 65535"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does: what has ended is no matter
        try:
            probe.bind((HOST, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            return "is in use by another program" if taken else f"cannot be used: {os.strerror(error.errno or 0)}"
    return ""


def check_port(port: int) -> None:
    """Whether a service can have a port.

    Raises:
        OptionsError: There is no such port.
        ExportError: Another program has it, or this user may not have it.
    """
    if reason := why_not(port):
        kind = ExportError if 0 <= port <= 65535 else OptionsError
        raise kind(f"{port} {reason}." if kind is OptionsError else f"Port {port} of {HOST} {reason}.", _REMEDY)
