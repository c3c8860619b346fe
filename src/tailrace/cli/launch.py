"""``tailrace launch``: start a client with everything set that it needs to use a server.

The client takes this process's place (exec): its exit status, its terminal and Ctrl-C are its own.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tailrace.cli import background_server, server_choice
from tailrace.cli.launch_clients import CLIENTS, FOLDER, Client, Launch, Target
from tailrace.cli.launch_target import NotSuitable, check_suitable, find_model, own_server, start_server
from tailrace.cli.ps import own_key
from tailrace.cli.server_client import ServerClient
from tailrace.cli.stop import stop_server
from tailrace.errors import ConfigurationError, TailraceError
from tailrace.folders import state_folder
from tailrace.settings import resolve

#: The value of a key for servers that want none: clients refuse an empty one.
_NO_KEY = "none"


class LaunchCommand(TyperCommand):
    """Keeps the words behind ``--`` apart: they are the client's, and no arguments of this command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See the class. ``ctx``: of click, which newer versions of Typer have inside."""
        if "--" in args:
            mark = args.index("--")
            ctx.meta["client arguments"] = args[mark + 1 :]
            args = args[:mark]
        return super().parse_args(ctx, args)


def _complete_client(beginning: str) -> list[str]:
    return [name for name in CLIENTS if name.startswith(beginning)]


def launch(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="CLIENT", help=f"{', '.join(CLIENTS)}.", autocompletion=_complete_client)
    ],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A model of the server; where no server of yours has it, it is served in the background.",
            autocompletion=server_choice.complete_model,
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="The server: its root, or the base URL of clients. [default: yours that runs]")
    ] = None,
    context: Annotated[
        int | None, typer.Option("--ctx", min=1, help="Tokens of a request, where the model is served now.")
    ] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Start it with any model.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Print environment and command, start nothing.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Don't verify the server's certificate.")] = False,
) -> None:
    """Start CLIENT with everything set for a server of yours, or another one. What follows -- is given to the client.

    No file of yours is changed: the client is told by environment and options. A server that is started for it goes on
    in the background; tailrace stop ends it. The server's API key is TAILRACE_API_KEY.
    """
    own = list(ctx.meta.get("client arguments", ()))
    if name not in CLIENTS:
        raise ConfigurationError(f"there is no client {name!r}; there are {', '.join(CLIENTS)}")
    client = CLIENTS[name]
    program = shutil.which(client.program)
    if program is None and not show:
        raise ConfigurationError(
            f"{client.title} isn't installed: there is no {client.program} on the path. Install it with: "
            f"{client.install}"
        )
    server, target = _server(client, model, url, context, anyway=anyway, show=show, verify=not insecure)
    settings = client.settings(target, own)
    settings = _with_folder(settings, _folder(client, settings))
    command = [client.program, *settings.arguments, *own]
    if show:
        _print(settings, command, key=bool(server and server.key))
        return
    assert program is not None
    if settings.note:
        print(settings.note, file=sys.stderr)
    environment = _environment(settings, (server.key if server else None) or _NO_KEY)
    sys.stdout.flush()
    try:
        os.execve(program, command, environment)
    except OSError as error:
        raise TailraceError(f"{program} can't be started: {error.strerror}") from error


def _server(
    client: Client, model: str | None, url: str | None, context: int | None, *, anyway: bool, show: bool, verify: bool
) -> tuple[ServerClient | None, Target]:
    """The server with its key, and the model there. With ``show`` none is started. Raises TailraceError."""
    started = None
    if url is not None:
        server = ServerClient(url, key=os.environ.get("TAILRACE_API_KEY") or None, verify=verify)
    else:
        running = own_server(model)
        if running is None and model is None:
            raise ConfigurationError(
                "no server of yours runs: name a MODEL to serve (tailrace list has those on this machine), or a "
                f"server's --url, as in: tailrace launch {client.name} hf:Qwen/Qwen3-4B-GGUF:Q4_K_M"
            )
        if running is None:
            assert model is not None
            if show:
                return None, _planned(model, context)
            print(f"Serving {model} in the background ...", file=sys.stderr)
            state = started = start_server(model, context)
            background_server.report(state, file=sys.stderr)
            model = state.models[0]
        else:
            state, model = running
            if context is not None:
                raise ConfigurationError(
                    f"--ctx is for a server that is started now, and one runs on {state.url}: stop it first "
                    f"(tailrace stop {state.port})"
                )
        # The server is this user's, on this machine: its certificate has another machine's name.
        server = ServerClient(state.url, key=own_key(), verify=False)
    found = find_model(server, model)
    if not anyway:
        try:
            check_suitable(client, found)
        except NotSuitable:
            if started is not None:
                stop_server(started)
                print("The server was stopped again.", file=sys.stderr)
            raise
    if found.target.context is None:
        print(f"{server.url} doesn't say its context; {client.title} needs {client.context:,} tokens.", file=sys.stderr)
    return server, found.target


def _planned(model: str, context: int | None) -> Target:
    """Print how the server would be started; where it would be then."""
    settings = resolve({}).settings
    flag = f" --ctx {context}" if context else ""
    print(f"tailrace serve --detach {shlex.quote(model)}{flag}")
    return Target(f"http://{settings.host}:{settings.port}", model, context)


def _folder(client: Client, settings: Launch) -> Path:
    """The folder of the client's files, named by their content: clients with other models use others."""
    words = hashlib.sha256(repr(sorted(settings.files.items())).encode()).hexdigest()[:12]
    return state_folder() / "launch" / client.name / (words if settings.files else "data")


def _with_folder(settings: Launch, folder: Path) -> Launch:
    """The settings with the folder's path in them; writes the files. Raises TailraceError."""
    texts = [*settings.arguments, *settings.defaults.values()]
    if not any(FOLDER in text for text in texts):
        return settings
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in settings.files.items():
            fresh = folder / f"{name}.{os.getpid()}"
            fresh.write_text(content, encoding="utf-8")
            fresh.replace(folder / name)
    except OSError as error:
        raise TailraceError(f"{folder} can't be written: {error.strerror}") from error
    return replace(
        settings,
        arguments=tuple(text.replace(FOLDER, str(folder)) for text in settings.arguments),
        defaults={name: text.replace(FOLDER, str(folder)) for name, text in settings.defaults.items()},
    )


def _environment(settings: Launch, key: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in settings.without}
    return {**settings.defaults, **kept, **settings.environment, **dict.fromkeys(settings.keys, key)}


def _print(settings: Launch, command: Sequence[str], *, key: bool) -> None:
    """The same as lines for a shell. A key isn't shown: its variable is."""
    for name in settings.without:
        print(f"unset {name}")
    defaults = {name: value for name, value in settings.defaults.items() if name not in os.environ}
    values = {**defaults, **settings.environment}
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    for name in settings.keys:
        print(f'export {name}="$TAILRACE_API_KEY"' if key else f"export {name}={_NO_KEY}")
    print(shlex.join(command))
