"""OpenAI's ``system_fingerprint``: the same seed and parameters give the same reply while it is the same.

It depends on the model's file, its template, this server's version and the settings that change replies. It doesn't
differ from one start to the next.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import structlog

from tailrace import __version__
from tailrace.errors import ModelError
from tailrace.models.file_fingerprint import fingerprint
from tailrace.protocol import ModelInfo
from tailrace.settings import FIELDS, Settings

#: Settings that change no reply: names, addresses, keys, limits of the HTTP side, where threads run, logs.
_ELSEWHERE = frozenset(
    {
        "model",
        "models_dir",
        "all_models",
        "models_mb",
        "alias",
        "aliases",
        "pinned",
        "idle_seconds",
        "cpus",
        "cpus_prefill",
        "http_cpus",
        "pin",
        "poll",
        "thread_priority",
        "host",
        "port",
        "api_key",
        "cluster_secret",
        "keys_file",
        "keys_store",
        "tls_cert",
        "tls_key",
        "allowed_hosts",
        "manage_models",
        "cors_origins",
        "max_body_mb",
        "keepalive_seconds",
        "keepalive_style",
        "responses_mb",
        "responses_days",
        "responses_file",
        "responses_store",
        "postgres_connections",
        "engine_wait_seconds",
        "hang_seconds",
        "restart_limit",
        "slow_reader_kb",
        "send_memory_mb",
        "send_seconds",
        "header_seconds",
        "body_seconds",
        "body_memory_mb",
        "max_connections",
        "drain_seconds",
        "log_level",
        "log_format",
        "log_gap_ms",
    }
)


def file_identity(path: Path | None) -> str:
    """The identity of the model's file; "" without a file, or where it can't be read any more."""
    if path is None:
        return ""
    try:
        return fingerprint(path)
    except ModelError as error:
        # The engine may go on with a file that was deleted since.
        structlog.get_logger().warning("system_fingerprint is made without the model's file", error=str(error))
        return ""


def system_fingerprint(settings: Settings, info: ModelInfo, file: str) -> str:
    """``fp_`` and ten hexadecimal digits; ``file`` is what ``file_identity`` gave."""
    given = [(name, getattr(settings, name)) for name in FIELDS if name not in _ELSEWHERE]
    model = (info.architecture, info.description, info.parameters, info.size_bytes, info.chat_template)
    identity = msgspec.json.encode([__version__, file, model, given], order="deterministic")
    return f"fp_{hashlib.sha256(identity).hexdigest()[:10]}"
