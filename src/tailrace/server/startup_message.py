"""The message on standard output when the server is ready, with a curl command to try it."""

from __future__ import annotations

import json
import socket

from tailrace.server.browsers.hosts import is_loopback
from tailrace.server.served_model import ServedModel
from tailrace.server.start_check import OPEN_TO_NETWORK
from tailrace.settings import Settings

_announced = False


def announce(http: socket.socket, settings: Settings, model_name: str, model: ServedModel, *, needs_key: bool) -> None:
    """Print where the server listens and a curl command to paste; once in the life of the process. ``needs_key``:
    whether requests need an API key.
    """
    global _announced
    if _announced:
        return
    _announced = True
    host, port = http.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"{'https' if settings.tls_cert else 'http'}://{shown}:{port}"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if needs_key else ""
    body = json.dumps({"model": model_name, "messages": [{"role": "user", "content": "Hello!"}], "stream": True})
    warning = f"  Warning: {OPEN_TO_NETWORK}.\n\n" if not needs_key and not is_loopback(settings.host) else ""
    print(
        f"\n  {model_name} is ready ({model.info.description}, context {model.info.context} tokens). Try:\n\n"
        f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'\n\n"
        f"{warning}tailrace listens on {url}",
        flush=True,
    )
