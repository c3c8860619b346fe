"""The message on standard output when the server is ready, with a curl command to try it."""

from __future__ import annotations

import json
import socket

from tailrace.server.served_model import ServedModel
from tailrace.settings import Settings

_announced = False


def announce(http: socket.socket, settings: Settings, model_name: str, model: ServedModel) -> None:
    """Print where the server listens and a curl command to paste; once in the life of the process."""
    global _announced
    if _announced:
        return
    _announced = True
    host, port = http.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    url = f"http://{shown}:{port}"
    key = " -H 'Authorization: Bearer YOUR_KEY'" if settings.api_key else ""
    body = json.dumps({"model": model_name, "messages": [{"role": "user", "content": "Hello!"}], "stream": True})
    print(
        f"\n  {model_name} is ready ({model.info.description}, context {model.info.context} tokens). Try:\n\n"
        f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'\n\n"
        f"tailrace listens on {url}",
        flush=True,
    )
