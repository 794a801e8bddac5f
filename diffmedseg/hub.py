"""The Hugging Face Hub without a network: say so at once, in place of retries for most of a minute."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies


def hub_is_unknown() -> bool:
    """Return whether the network does not know the hub's server, so that every request fails.

    Behind a proxy this is False, because the proxy looks up the server.
    """
    from huggingface_hub import constants

    if getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        return True
    return False


def is_absent(error: Exception) -> bool:
    """Return whether an error says that a file is not in the cache, and that the hub was not reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    return isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)


@contextmanager
def without_vain_retries() -> Iterator[None]:
    """Switch huggingface_hub to its cache alone, if the network does not know the hub's server."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or hub_is_unknown()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
