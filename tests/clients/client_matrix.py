"""The tested clients, their environments and their abilities.

``TAILRACE_TEST_CLIENTS`` says which of them a run starts: ``light`` (the default: those that ``make test`` has already
installed), ``all``, or names with commas.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"
NODE = HERE / "node"
#: The environments that ``scripts/setup_clients.py`` makes.
PYTHON_VENV = ROOT / ".venv-clients"
OPEN_WEBUI_VENV = ROOT / ".venv-open-webui"
#: Agent frameworks, which need other versions of the clients' shared packages.
AGENTS_VENV = ROOT / ".venv-agents"
AIDER_VENV = ROOT / ".venv-aider"
#: The lock file of each environment.
LOCKS = {
    "dev": ROOT / "constraints.txt",
    "python": HERE / "requirements-python.txt",
    "agents": HERE / "requirements-agents.txt",
    "aider": HERE / "requirements-aider.txt",
    "open-webui": HERE / "requirements-open-webui.txt",
    "node": NODE / "package-lock.json",
}


#: The abilities that are tested with every client with a driver; ``test_clients`` has a test for each.
PROOFS = (
    "whole",
    "stream",
    "whole-tools",
    "stream-tools",
    "long-call",
    "two-chats",
    "reasoning",
    "long-wait",
    "errors",
    "broken",
    "leaving",
    "switching",
)


@dataclass(frozen=True)
class Client:
    """One client. ``lacks`` names the proofs that have no meaning for it, or with a way before it on that, and why."""

    name: str
    title: str
    package: str
    home: str
    api: str
    driver: str = ""
    ways: tuple[str, ...] = ("direct", "relay")
    lacks: dict[str, str] = field(default_factory=dict)
    asked: tuple[str, ...] = PROOFS
    #: Whether the client shows these things to its user.
    tells_finish: bool = True
    tells_usage: bool = True

    @property
    def version(self) -> str:
        """The version that its environment is locked to."""
        return locked(self.home, self.package)

    def command(self) -> list[str]:
        """The command of its driver."""
        if self.home == "node":
            # Beside its packages, because that is where Node looks for them.
            return ["node", str(NODE / self.driver)]
        python = sys.executable if self.home == "dev" else str(PYTHON_VENV / "bin" / "python")
        return [python, str(DRIVERS / self.driver)]


def locked(home: str, package: str) -> str:
    """The version of a package in an environment's lock."""
    text = LOCKS[home].read_text(encoding="utf-8")
    if home == "node":
        return str(json.loads(text)["packages"][f"node_modules/{package}"]["version"])
    found = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    assert found, f"{LOCKS[home]} has no {package}"
    return found[1]


_NO_REASONING = "has no place for reasoning"
_SLOW_START = "starts for long, and the libraries prove that relays keep a model's name"
CLIENTS = (
    Client("openai-python", "openai (Python)", "openai", "dev", "chat completions", "openai_chat.py"),
    Client(
        "openai-node",
        "openai (Node)",
        "openai",
        "node",
        "chat completions",
        "openai_chat.mjs",
        ways=("direct", "relay", "litellm"),
    ),
    Client(
        "langchain",
        "langchain-openai",
        "langchain-openai",
        "python",
        "chat completions",
        "langchain_chat.py",
        lacks={"reasoning": _NO_REASONING},
    ),
    Client(
        "llama-index",
        "llama-index (OpenAILike)",
        "llama-index-llms-openai-like",
        "python",
        "chat completions",
        "llama_index_chat.py",
        lacks={"reasoning": _NO_REASONING, "leaving": "a stream that isn't read on stays open"},
        tells_finish=False,
    ),
    Client("litellm", "litellm (SDK)", "litellm", "python", "chat completions", "litellm_sdk.py"),
    Client(
        "ai-sdk",
        "Vercel AI SDK",
        "ai",
        "node",
        "chat completions",
        "ai_sdk.mjs",
        ways=("direct", "relay", "litellm"),
    ),
    Client(
        "nextchat",
        "fetch-event-source, as NextChat drives it",
        "@fortaine/fetch-event-source",
        "node",
        "chat completions",
        "nextchat.mjs",
        ways=("direct", "relay", "litellm"),
        lacks={"whole": "always streams", "whole-tools": "always streams"},
        tells_finish=False,
        tells_usage=False,
    ),
    Client(
        "openai-python-responses",
        "openai (Python)",
        "openai",
        "dev",
        "responses",
        "openai_responses.py",
        ways=("direct", "relay", "litellm"),
    ),
    Client(
        "ai-sdk-responses",
        "Vercel AI SDK",
        "ai",
        "node",
        "responses",
        "ai_sdk_responses.mjs",
    ),
    Client(
        "anthropic",
        "anthropic (Python)",
        "anthropic",
        "python",
        "Anthropic messages",
        "anthropic_messages.py",
        ways=("direct", "relay", "litellm"),
        lacks={"litellm reasoning": "litellm's translation drops it"},
    ),
    Client(
        "ollama",
        "ollama (Python)",
        "ollama",
        "python",
        "Ollama",
        "ollama_chat.py",
    ),
    Client("ollama-node", "ollama (JavaScript)", "ollama", "node", "Ollama", "ollama_chat.mjs"),
    Client(
        "claude-code",
        "Claude Code",
        "@anthropic-ai/claude-code",
        "node",
        "Anthropic messages",
        asked=("text", "tool-call", "answer", "switching", "launch"),
        lacks={"relay switching": _SLOW_START},
        ways=("direct", "relay", "litellm"),
    ),
    Client(
        "codex",
        "Codex CLI",
        "@openai/codex",
        "node",
        "responses",
        asked=("text", "tool-call", "answer", "launch"),
        ways=("direct", "relay", "litellm"),
    ),
    Client(
        "opencode",
        "opencode",
        "opencode-ai",
        "node",
        "chat completions",
        asked=("text", "tool-call", "answer", "launch"),
    ),
    Client(
        "qwen-code",
        "Qwen Code",
        "@qwen-code/qwen-code",
        "node",
        "chat completions",
        asked=("text", "tool-call", "answer", "launch"),
    ),
    Client("aider", "aider", "aider-chat", "aider", "chat completions", ways=("direct",), asked=("launch",)),
    Client(
        "openai-agents",
        "openai-agents",
        "openai-agents",
        "agents",
        "responses",
        "openai_agents_turn.py",
        asked=("tool-call", "answer"),
    ),
    Client(
        "pydantic-ai",
        "pydantic-ai",
        "pydantic-ai-slim",
        "agents",
        "chat completions",
        "pydantic_ai_turn.py",
        asked=("tool-call", "answer"),
    ),
    Client(
        "instructor",
        "instructor",
        "instructor",
        "agents",
        "chat completions",
        "instructor_turn.py",
        asked=("tool-call", "answer"),
    ),
    Client(
        "llm-ollama",
        "llm, with llm-ollama",
        "llm-ollama",
        "agents",
        "Ollama",
        "llm_ollama_turn.py",
        asked=("tool-call", "answer"),
    ),
    Client(
        "open-webui",
        "Open WebUI, in Chromium",
        "open-webui",
        "open-webui",
        "chat completions",
        asked=("first-message", "second-message", "titles", "tags", "follow-ups", "switching", "launch"),
        lacks={"relay switching": _SLOW_START},
    ),
)
LIGHT = ("openai-python", "openai-python-responses")
#: one-api reads an upstream's reply to its end whatever becomes of the client. ``tailrace launch`` leads to a server.
DIRECT_ALONE = ("leaving", "launch")
#: Its proxy has names of its own for models, each of which leads to one server.
NOT_BY_LITELLM = ("switching",)


def proofs(client: Client, way: str) -> list[str]:
    """The abilities that are tested with the client in this way."""
    left_out = {
        *client.lacks,
        *(DIRECT_ALONE if way != "direct" else ()),
        *(NOT_BY_LITELLM if way == "litellm" else ()),
    }
    return [proof for proof in client.asked if proof not in left_out and f"{way} {proof}" not in left_out]


def ways(client: Client) -> tuple[str, ...]:
    """The ways on which the client is proven in this run: ``make test`` has no proxy installed."""
    return tuple(way for way in client.ways if way != "litellm") if _wanted() == "light" else client.ways


def _wanted() -> str:
    return os.environ.get("TAILRACE_TEST_CLIENTS", "light")


def chosen() -> list[Client]:
    """The clients of this run."""
    wanted = _wanted()
    known = {client.name: client for client in CLIENTS}
    if wanted == "all":
        return list(CLIENTS)
    names = LIGHT if wanted == "light" else tuple(wanted.split(","))
    return [known[name] for name in names if name in known]
