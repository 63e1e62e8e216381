"""No network for this Python and its children, apart from this very machine.

With this folder on PYTHONPATH every Python started imports the file before anything else. What it
refuses fails as on a machine without a network, only at once and by name. It sees Python's own
sockets; a network namespace, used besides where CI=true, holds for every program.
"""

import ipaddress
import socket
import sys

LOCAL_NAMES = {"", "localhost", "localhost.localdomain", socket.gethostname()}


class NetworkBlocked(ConnectionRefusedError):
    """A connection that leaves this machine was attempted where the chapters are tested."""


def _is_local(host):
    if host is None:
        return True
    name = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
    if name.lower() in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _refuse_remote(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # a Unix socket, or an already connected one
            return
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_local(host):
        raise NetworkBlocked(f"the network is blocked here: {event} to {host!r} was refused")


# An audit hook cannot be removed, and sees the sockets of the C module as well as those of Python.
sys.addaudithook(_refuse_remote)
