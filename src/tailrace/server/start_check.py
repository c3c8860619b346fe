"""Checks the settings of the HTTP side before any process starts, so that a mistake is one line and not a log."""

from __future__ import annotations

import structlog

from tailrace.server.browsers.guard import BrowserGuard, check_open_management
from tailrace.server.browsers.hosts import is_loopback
from tailrace.server.keys.keys_file import keys_path, read_keys
from tailrace.server.tls import certificate
from tailrace.settings import Settings


def check_http_settings(settings: Settings) -> None:
    """Raise ConfigurationError for keys, a certificate, hosts or origins that can't be used. Warns of a server that is
    open to a network.
    """
    certificate(settings)
    keyed = needs_key(settings)
    check_open_management(settings, BrowserGuard(settings), keyed=keyed)
    file = keys_path(settings.keys_file)
    if file.exists() and file.stat().st_mode & 0o022:
        structlog.get_logger().warning("other users may change the keys file: chmod go-w", file=str(file))
    if not keyed and not is_loopback(settings.host):
        structlog.get_logger().warning(OPEN_TO_NETWORK, host=settings.host)


#: What the log and the message at the start say.
OPEN_TO_NETWORK = (
    "the server listens beyond this machine without a key: every client that reaches it may use it; "
    "make a key with: tailrace keys create NAME"
)


def needs_key(settings: Settings) -> bool:
    """Whether requests need a key. Raises ConfigurationError when the keys file can't be used."""
    return bool(settings.api_key) or read_keys(keys_path(settings.keys_file)) is not None
