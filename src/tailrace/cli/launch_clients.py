"""The clients that ``tailrace launch`` starts: how each is told of a server, and what it needs of one. No I/O.

Each client is configured by its environment and its options alone. An API key goes into the environment: other users
see options (``ps``).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

#: The variable with the server's key, for clients whose configuration names a variable.
KEY = "TAILRACE_LAUNCH_KEY"
#: In an option: the folder in which the client's ``files`` are.
FOLDER = "{folder}"


@dataclass(frozen=True)
class Target:
    """A server's model. ``root``: the server's URL without ``/v1``; ``context``: in tokens, None if not known."""

    root: str
    model: str
    context: int | None

    @property
    def base(self) -> str:
        """The base URL of OpenAI's API."""
        return f"{self.root}/v1"


@dataclass(frozen=True)
class Launch:
    """How a client is started. The user's own arguments follow ``arguments``."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)  #: only where the user's environment has no value
    keys: tuple[str, ...] = ()  #: variables that get the server's key
    without: tuple[str, ...] = ()  #: variables of the user's that would lead elsewhere
    files: Mapping[str, str] = field(default_factory=dict)  #: names and contents, in a folder of tailrace's own
    note: str = ""  #: shown before the client starts


@dataclass(frozen=True)
class Client:
    """See the module. ``context``: the least tokens that it works with, because its first prompt has ``prompt``."""

    name: str
    title: str
    program: str
    install: str
    prompt: int
    context: int
    tools: bool
    settings: Callable[[Target, Sequence[str]], Launch]


def _claude(target: Target, _: Sequence[str]) -> Launch:
    names = ("OPUS", "SONNET", "HAIKU", "FABLE")
    environment = {
        "ANTHROPIC_BASE_URL": target.root,
        "ANTHROPIC_MODEL": target.model,
        # The names behind its aliases, and the models of its small tasks and of its agents.
        **{f"ANTHROPIC_DEFAULT_{name}_MODEL": target.model for name in names},
        "ANTHROPIC_SMALL_FAST_MODEL": target.model,
        "CLAUDE_CODE_SUBAGENT_MODEL": target.model,
    }
    if target.context is not None:
        # It would shorten conversations for the context of Anthropic's models.
        environment["CLAUDE_CODE_AUTO_COMPACT_WINDOW"] = str(target.context)
        environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(_output_tokens(target.context))
    return Launch(
        environment=environment,
        defaults={"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        # A token, because an API key of the environment has to be approved in a dialog first.
        keys=("ANTHROPIC_AUTH_TOKEN",),
        without=("ANTHROPIC_API_KEY", "CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"),
    )


def _codex(target: Target, _: Sequence[str]) -> Launch:
    values: dict[str, str | int] = {
        "model": target.model,
        "model_provider": "tailrace",
        "model_providers.tailrace.name": "tailrace",
        "model_providers.tailrace.base_url": target.base,
        "model_providers.tailrace.env_key": KEY,
        "model_providers.tailrace.wire_api": "responses",
    }
    if target.context is not None:
        values["model_context_window"] = target.context
    # A string of JSON is one of TOML, too.
    options = [word for name, value in values.items() for word in ("-c", f"{name}={json.dumps(value)}")]
    return Launch(arguments=tuple(options), keys=(KEY,))


def _opencode(target: Target, _: Sequence[str]) -> Launch:
    model: dict[str, object] = {"name": target.model}
    if target.context is not None:
        model["limit"] = {"context": target.context, "output": _output_tokens(target.context)}
    configuration = {
        "model": f"tailrace/{target.model}",
        "small_model": f"tailrace/{target.model}",
        "provider": {
            "tailrace": {
                "npm": "@ai-sdk/openai-compatible",
                "name": "tailrace",
                "options": {"baseURL": target.base, "apiKey": f"{{env:{KEY}}}"},
                "models": {target.model: model},
            }
        },
    }
    return Launch(environment={"OPENCODE_CONFIG_CONTENT": json.dumps(configuration)}, keys=(KEY,))


def _qwen(target: Target, _: Sequence[str]) -> Launch:
    return Launch(
        arguments=("--auth-type", "openai", "--openai-base-url", target.base, "--model", target.model),
        environment={"OPENAI_BASE_URL": target.base, "OPENAI_MODEL": target.model},
        keys=("OPENAI_API_KEY",),
    )


def _aider(target: Target, _: Sequence[str]) -> Launch:
    arguments = ["--model", f"openai/{target.model}", "--openai-api-base", target.base, "--no-show-model-warnings"]
    files = {}
    if target.context is not None:
        known = {
            "max_input_tokens": target.context,
            "max_output_tokens": _output_tokens(target.context),
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
        }
        files["models.json"] = json.dumps({f"openai/{target.model}": known})
        arguments += ["--model-metadata-file", f"{FOLDER}/models.json"]
    return Launch(
        arguments=tuple(arguments),
        environment={"OPENAI_API_BASE": target.base},
        keys=("OPENAI_API_KEY",),
        files=files,
    )


def _open_webui(target: Target, own: Sequence[str]) -> Launch:
    host = _option(own, "--host")
    port = _option(own, "--port")
    arguments = ["serve", *([] if host else ["--host", "127.0.0.1"])]
    defaults = {
        "RAG_EMBEDDING_ENGINE": "openai",  # Its own would be fetched first: hundreds of megabytes.
        "RAG_OPENAI_API_BASE_URL": target.base,
        "RAG_EMBEDDING_MODEL": target.model,
        "WEBUI_SECRET_KEY": secrets.token_hex(32),  # It would write one into the current folder.
        "DATA_DIR": FOLDER,
    }
    if host in {None, "127.0.0.1", "::1", "localhost"}:
        defaults["WEBUI_AUTH"] = "False"
    return Launch(
        arguments=tuple(arguments),
        environment={
            "OPENAI_API_BASE_URL": target.base,
            "ENABLE_OPENAI_API": "True",
            "ENABLE_OLLAMA_API": "False",
            "DEFAULT_MODELS": target.model,
            # Else its database's values count, from the start before.
            "ENABLE_PERSISTENT_CONFIG": "False",
        },
        defaults=defaults,
        keys=("OPENAI_API_KEY", "RAG_OPENAI_API_KEY"),
        note=f"Open WebUI starts, which takes a minute; then open http://{host or '127.0.0.1'}:{port or 8080}",
    )


def _option(words: Sequence[str], name: str) -> str | None:
    """The value of a client's own option."""
    for number, word in enumerate(words):
        if word == name and number + 1 < len(words):
            return words[number + 1]
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _output_tokens(context: int) -> int:
    """The longest reply that a client plans for: the prompt has most of the context."""
    return max(1024, min(32_768, context // 4))


_NPM, _PIPX = "npm install -g", "pipx install"
CLIENTS = {
    client.name: client
    for client in (
        Client("claude", "Claude Code", "claude", f"{_NPM} @anthropic-ai/claude-code", 20_000, 32_768, True, _claude),
        Client("codex", "Codex", "codex", f"{_NPM} @openai/codex", 10_000, 32_768, True, _codex),
        Client("opencode", "opencode", "opencode", f"{_NPM} opencode-ai", 8_000, 32_768, True, _opencode),
        Client("qwen", "Qwen Code", "qwen", f"{_NPM} @qwen-code/qwen-code", 15_000, 32_768, True, _qwen),
        Client("aider", "aider", "aider", f"{_PIPX} aider-chat", 1_000, 8_192, False, _aider),
        Client("open-webui", "Open WebUI", "open-webui", f"{_PIPX} open-webui", 500, 2_048, False, _open_webui),
    )
}
