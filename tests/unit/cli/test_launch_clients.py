"""How each client is told of a server, as data: no client is started."""

from __future__ import annotations

import json
import tomllib

import pytest

from tailrace.cli.launch_clients import CLIENTS, FOLDER, KEY, Launch, Target, _option
from tailrace.cli.launch_target import Found, NotSuitable, check_suitable

TARGET = Target("https://host/prefix", 'a "b":c', 40_000)


def settings(name: str, *own: str, target: Target = TARGET) -> Launch:
    return CLIENTS[name].settings(target, own)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("context", [None, 40_000])
def test_each_client_gets_the_url_the_model_and_a_place_for_the_key(name: str, context: int | None) -> None:
    target = Target("https://host/prefix", "a-model", context)
    told = settings(name, target=target)
    words = " ".join([*told.arguments, *told.environment.values()])
    assert "https://host/prefix" in words
    assert "a-model" in words
    assert told.keys, "its key comes by environment"
    assert not set(told.keys) & set(told.environment)


def test_claude_code_asks_for_this_model_under_all_names() -> None:
    told = settings("claude")
    models = {name for name in told.environment if name.endswith("_MODEL")}
    assert {told.environment[name] for name in models} == {TARGET.model}
    assert {"ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_SMALL_FAST_MODEL"} <= models
    assert told.environment["ANTHROPIC_BASE_URL"] == "https://host/prefix", "it adds /v1 itself"
    assert told.keys == ("ANTHROPIC_AUTH_TOKEN",)
    assert "ANTHROPIC_API_KEY" in told.without


def test_codex_gets_its_configuration_as_toml() -> None:
    told = settings("codex")
    assert told.arguments[::2] == ("-c",) * (len(told.arguments) // 2)
    read = tomllib.loads("\n".join(told.arguments[1::2]))
    assert read["model"] == TARGET.model
    assert read["model_context_window"] == 40_000
    assert read["model_providers"][read["model_provider"]] == {
        "name": "tailrace",
        "base_url": "https://host/prefix/v1",
        "env_key": KEY,
        "wire_api": "responses",
    }


def test_opencode_gets_its_configuration_as_json() -> None:
    read = json.loads(settings("opencode").environment["OPENCODE_CONFIG_CONTENT"])
    provider, _, model = read["model"].partition("/")
    assert model == TARGET.model
    assert read["provider"][provider]["options"] == {"baseURL": "https://host/prefix/v1", "apiKey": f"{{env:{KEY}}}"}
    assert read["provider"][provider]["models"][model]["limit"] == {"context": 40_000, "output": 10_000}


def test_aider_is_told_the_context_by_a_file_of_tailraces() -> None:
    told = settings("aider")
    assert f"{FOLDER}/models.json" in told.arguments
    assert json.loads(told.files["models.json"])[f"openai/{TARGET.model}"]["max_input_tokens"] == 40_000
    assert not settings("aider", target=Target("http://host", "m", None)).files


def test_open_webui_needs_no_account_only_where_no_other_machine_reaches_it() -> None:
    assert settings("open-webui").arguments == ("serve", "--host", "127.0.0.1")
    assert settings("open-webui").defaults["WEBUI_AUTH"] == "False"
    reached = settings("open-webui", "--host", "0.0.0.0", "--port=9")
    assert reached.arguments == ("serve",)
    assert "WEBUI_AUTH" not in reached.defaults
    assert "http://0.0.0.0:9" in reached.note


@pytest.mark.parametrize(
    ("words", "value"), [([], None), (["--port"], None), (["--port", "1"], "1"), (["x", "--port=2"], "2")]
)
def test_an_option_of_the_clients_own_is_found(words: list[str], value: str | None) -> None:
    assert _option(words, "--port") == value


@pytest.mark.parametrize(
    ("name", "context", "trained", "tools", "says"),
    [
        (
            "claude",
            8192,
            131_072,
            True,
            "32,768; m on http://h has 8,192. Serve it with --ctx 32768",
        ),
        ("claude", 8192, 8192, True, "has 8,192. It was trained for no more, so choose another model"),
        ("codex", 65_536, None, False, "works with tools, and m on http://h has none"),
        ("claude", 32_768, None, True, None),
        ("claude", None, None, None, None),
        ("claude", None, 4096, None, "has 4,096. It was trained for no more"),
        ("aider", 8192, None, False, None),
        ("open-webui", 1024, None, False, "has 1,024"),
    ],
)
def test_a_model_that_is_not_good_enough_is_refused_with_numbers(
    name: str, context: int | None, trained: int | None, tools: bool | None, says: str | None
) -> None:
    found = Found(Target("http://h", "m", context), tools, trained)
    if says is None:
        check_suitable(CLIENTS[name], found)
        return
    with pytest.raises(NotSuitable) as error:
        check_suitable(CLIENTS[name], found)
    assert says in str(error.value)
    assert "--anyway" in str(error.value)
