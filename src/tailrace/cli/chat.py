"""``tailrace chat``: the terminal talks to any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tailrace.cli.chat_history import ChatHistory, ServerParameters, given_parameters
from tailrace.cli.chat_session import talk
from tailrace.cli.listed_models import listed_models, listed_with_key
from tailrace.cli.one_reply import answer_once, read_question
from tailrace.cli.ps import own_key
from tailrace.cli.remote_model import RemoteModel
from tailrace.cli.server_client import Refused, ServerClient, WrongKey
from tailrace.cli.slash_commands import MoreCommand, Outcome
from tailrace.cli.stats_client import own_server
from tailrace.cli.terminal import Interrupts, Terminal, clean, harmless
from tailrace.errors import ConfigurationError

#: Variables that may have the server's key, the first that is set counts.
_KEYS = ("TAILRACE_API_KEY", "OPENAI_API_KEY")


def chat(
    url: Annotated[
        str | None, typer.Argument(help="The server: its root, or the base URL of clients. [default: yours that runs]")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The server's model [the first one].")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this, print the reply and leave. A pipe's text is added.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token [the server's].")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many likeliest tokens [the server's].")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest that make up so much [...].")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens under this part of the likeliest [...].")] = None,
    repeat_penalty: Annotated[float | None, typer.Option(help="Over 1 makes repetition less likely [...].")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same reply.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply [the server's].")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With a prompt: figures on stderr.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Don't verify the server's certificate.")] = False,
) -> None:
    """Talk with a model of any server (tailrace, llama-server, Ollama, vLLM) in the terminal; /help lists commands.

    The API key comes from TAILRACE_API_KEY or OPENAI_API_KEY, or is asked for.
    """
    given = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
        "max_tokens": max_tokens,
    }
    parameters = given_parameters(ServerParameters(), given)
    question = read_question(prompt)
    # A server of one's own on this machine has a certificate for another name than 127.0.0.1.
    key = next((key for name in _KEYS if (key := os.environ.get(name))), None) or (own_key() if url is None else None)
    client = ServerClient(url or own_server(), key=key, verify=url is not None and not insecure)
    remote = RemoteModel(client, _model(client, model))
    conversation = ChatHistory(clean(system) if system else None, parameters)
    interrupts = Interrupts()
    interrupts.install()
    terminal = Terminal(interrupts)
    if question is not None:
        raise typer.Exit(answer_once(remote, conversation, question, terminal, interrupts, verbose=verbose))
    more = {
        "/models": MoreCommand("/models           the server's models", lambda _: _list(client, remote)),
        "/model": MoreCommand("/model NAME       go on with another model", lambda name: _switch(remote, name)),
    }
    talk(remote, conversation, terminal, interrupts, about=lambda: _about(client, remote), more=more)


def _about(client: ServerClient, remote: RemoteModel) -> str:
    return f"{remote.name} on {client.root}"


def _model(client: ServerClient, wanted: str | None) -> str:
    """The model to begin with. Asks for a key where the server wants one and a person is there."""
    try:
        names = [entry["id"] for entry in listed_with_key(client, _KEYS)]
    except WrongKey:
        raise
    except Refused:
        if wanted is None:
            raise
        return wanted  # A server without a list.
    if wanted is None and not names:
        raise Refused(f"{client.url} lists no model; name one with --model")
    return wanted or str(names[0])


def _list(client: ServerClient, remote: RemoteModel) -> Outcome:
    names = [entry["id"] for entry in listed_models(client)]
    return Outcome("\n".join(harmless(f"{'*' if name == remote.name else ' '} {name}") for name in names) or "none")


def _switch(remote: RemoteModel, name: str) -> Outcome:
    if not name:
        raise ConfigurationError("Usage: /model NAME; /models lists the names")
    remote.name = name
    return Outcome(f"The next replies come from {harmless(name)}.")
