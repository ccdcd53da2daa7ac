"""Addresses of a host, in bounded time: the system's resolver knows no timeout and cannot be interrupted."""

import queue
import socket
import threading
import time
from ipaddress import ip_address

from spinal.net.addresses import Address, literal_of

MOST_LOOKUPS = 32
"""At once. A resolver that hangs leaves threads behind until it gives up by itself."""
_lookups = threading.BoundedSemaphore(MOST_LOOKUPS)

Found = list[Address] | OSError


def addresses_of(host: str, port: int, ends: float) -> list[Address]:
    """The addresses of ``host`` in the resolver's order, each once. Raises OSError, TimeoutError at ``ends``
    (``time.monotonic``)."""
    if (address := literal_of(host)) is not None:
        return [address]
    places = _lookups
    if not places.acquire(timeout=max(0.0, ends - time.monotonic())):
        raise TimeoutError
    answers: queue.SimpleQueue[Found] = queue.SimpleQueue()
    try:
        threading.Thread(target=_look_up, args=(host, port, answers, places), name="lookup", daemon=True).start()
    except RuntimeError as error:  # no thread was to be had
        places.release()
        raise OSError(str(error)) from error
    try:
        found = answers.get(timeout=max(0.0, ends - time.monotonic()))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, OSError):
        raise found
    return found


def _look_up(host: str, port: int, answers: "queue.SimpleQueue[Found]", places: threading.BoundedSemaphore) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        answers.put(list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found)))
    except OSError as error:
        answers.put(error)
    except ValueError as error:  # UnicodeError of IDNA, an address nobody can read
        answers.put(OSError(type(error).__name__))
    finally:
        places.release()
