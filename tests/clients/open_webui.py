"""Open WebUI as a process of its own, with its tasks on and nothing that would reach for the internet."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

from client_matrix import OPEN_WEBUI_VENV
from peer_process import listening

PATIENCE = 240.0
#: The scripted backend says what the prompt's last script says; the tasks' prompts have the chat in them, and one at
#: their end. So a task's reply tells which chat it belongs to.
_TASKS = {
    "TITLE_GENERATION_PROMPT_TEMPLATE": '{"title": "Title of {{prompt:start:5}}"}',
    "TAGS_GENERATION_PROMPT_TEMPLATE": '{"tags": ["tag of {{prompt:start:5}}"]}',
    "FOLLOW_UP_GENERATION_PROMPT_TEMPLATE": '{"follow_ups": ["More of {{prompt:start:9}}?"]}',
}
_SETTINGS = {
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": "only-for-tests",
    "ENABLE_PERSISTENT_CONFIG": "False",
    "ENABLE_OLLAMA_API": "False",
    "ENABLE_TITLE_GENERATION": "True",
    "ENABLE_TAGS_GENERATION": "True",
    "ENABLE_FOLLOW_UP_GENERATION": "True",
    "ENABLE_AUTOCOMPLETE_GENERATION": "False",
    # No models, no news, no counting.
    "OFFLINE_MODE": "True",
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",
    "ENABLE_VERSION_UPDATE_CHECK": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "DO_NOT_TRACK": "true",
    "SCARF_NO_ANALYTICS": "true",
}


@contextlib.contextmanager
def open_webui(upstream: int) -> Iterator[str]:
    """The URL of an Open WebUI whose one connection leads to the port ``upstream``, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="tailrace-open-webui-", ignore_cleanup_errors=True) as folder:
        command = [str(OPEN_WEBUI_VENV / "bin" / "open-webui"), "serve"]
        environment = _SETTINGS | {"DATA_DIR": f"{folder}/data", "OPENAI_API_KEY": "any"}
        environment["OPENAI_API_BASE_URL"] = f"http://127.0.0.1:{upstream}/v1"
        for name, script in _TASKS.items():
            environment[name] = f"{{{{MESSAGES:END:2}}}}\n<say>{script}</say>"
        with listening("Open WebUI", command, folder, environment, health="/health", patience=PATIENCE) as port:
            yield f"http://127.0.0.1:{port}/"
