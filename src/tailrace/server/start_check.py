"""Checks the settings of the HTTP side before any process starts, so that a mistake is one line and not a log."""

from __future__ import annotations

import structlog

from tailrace.errors import ConfigurationError
from tailrace.server.browsers.guard import BrowserGuard, check_open_management
from tailrace.server.browsers.hosts import is_loopback
from tailrace.server.keys.keys_file import keys_path, read_keys
from tailrace.server.postgres.address import check_address
from tailrace.server.tls import certificate
from tailrace.settings import Settings


def check_http_settings(settings: Settings) -> None:
    """Raise ConfigurationError for keys, a certificate, hosts, origins or databases that can't be used. Warns of a
    server that is open to a network. A database need not answer: the server starts without it.
    """
    for setting, address, other in (
        ("keys_store", settings.keys_store, settings.keys_file),
        ("responses_store", settings.responses_store, settings.responses_file),
    ):
        if address is not None:
            check_address(setting, address)
            if other is not None:
                raise ConfigurationError(
                    f"{setting} and {setting.replace('store', 'file')} are both set; leave one out"
                )
    certificate(settings)
    keyed = needs_key(settings)
    check_open_management(settings, BrowserGuard(settings), keyed=keyed)
    file = keys_path(settings.keys_file)
    if settings.keys_store is None and file.exists() and file.stat().st_mode & 0o022:
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
    if settings.api_key or settings.keys_store is not None:
        return True
    return read_keys(keys_path(settings.keys_file)) is not None
