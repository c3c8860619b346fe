"""``tailrace run``: talk with a model in the terminal, or ask it one question in a pipe.

It reads the flags, the pipe and the model, and answers one question; a conversation is ``talk``'s. The model runs in
this process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tailrace.cli.chat_history import ChatHistory, Parameters, given_parameters
from tailrace.cli.chat_session import talk
from tailrace.cli.found_models import with_store_settings
from tailrace.cli.local_model import LocalModel
from tailrace.cli.model_argument import find_or_fetch
from tailrace.cli.one_reply import INTERRUPTED, answer_once, read_question
from tailrace.cli.template_check import check_chat_template
from tailrace.cli.terminal import Interrupts, Terminal, clean
from tailrace.cli.tuned_settings import resolve_tuned
from tailrace.engine.load import load_backend, load_draft
from tailrace.errors import ConfigurationError, InvalidRequest
from tailrace.models.model_reference import ModelFile
from tailrace.observe import logs
from tailrace.settings import Resolved


def run(
    model: Annotated[str | None, typer.Argument(help="A path, a name, hf:ORG/REPO:QUANT, ollama:MODEL:TAG.")] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="Ask this, print the reply and leave. A pipe's text is added.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System text.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token [0.8].")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many likeliest tokens; 0 is all [40].")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest that make up so much [0.95].")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens under this part of the likeliest [0.05].")] = None,
    repeat_penalty: Annotated[float | None, typer.Option(help="Over 1 makes repetition less likely [1].")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same reply.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest reply [until the model stops].")] = None,
    threads: Annotated[int | None, typer.Option(help="Engine threads [planned: tailrace doctor].")] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="Chat template instead of the model's own: a name, or a file (Jinja).")
    ] = None,
    ctx: Annotated[int | None, typer.Option(help="Tokens of the whole conversation [what the model knows].")] = None,
    weights: Annotated[
        str | None, typer.Option(help="as-is, or converted once: near-lossless or fast [as-is].")
    ] = None,
    gpu_layers: Annotated[int | None, typer.Option(help="Layers on the GPU, where there is one [as planned].")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="With a prompt: figures on stderr.")] = False,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")] = None,
) -> None:
    """Talk with MODEL (the starter model by default) in the terminal; /help there lists the commands."""
    flags = {
        "model": model,
        "chat_template": chat_template,
        "threads": threads,
        "ctx": ctx,
        "weights": weights,
        "gpu_layers": gpu_layers,
    }
    resolved = resolve_tuned(flags, file=config)
    check_chat_template(resolved.settings.chat_template)
    given = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": seed,
        "max_tokens": max_tokens,
    }
    parameters = given_parameters(Parameters(), given)
    question = read_question(prompt)
    level = "warning" if resolved.origins["log_level"] == "default" else resolved.settings.log_level
    logs.configure("run", level=level, form=resolved.settings.log_format)
    file = ModelFile(path=Path(), name="fake")
    if resolved.settings.backend != "fake":
        file = find_or_fetch(resolved.settings)
        resolved = with_store_settings(resolved, file.found)
    settings = resolved.settings
    system = clean(system) if system else settings.system_prompt
    conversation = ChatHistory(system or None, _with_defaults(parameters, given, settings.sampling))
    interrupts = Interrupts()
    # The loader is C code that can't be left in an orderly way.
    signal.signal(signal.SIGINT, _leave)
    local = _load(resolved, file.path)
    interrupts.install()
    terminal = Terminal(interrupts)
    try:
        if question is not None:
            raise typer.Exit(answer_once(local, conversation, question, terminal, interrupts, verbose=verbose))
        about = f"{file.name} ({local.info.description}), context {local.info.context} tokens"
        talk(local, conversation, terminal, interrupts, about=lambda: about)
    finally:
        local.close()


def _with_defaults(parameters: Parameters, given: Mapping[str, Any], sampling: Mapping[str, Any]) -> Parameters:
    """The parameters, and the setting ``sampling`` for those that no flag has set."""
    for name, value in sampling.items():
        own = {"num_predict": "max_tokens"}.get(name, name)
        if given.get(own) is None and own in Parameters.__struct_fields__ and not (own == "max_tokens" and value < 1):
            try:
                parameters = parameters.changed(own, value)
            except InvalidRequest as error:
                raise ConfigurationError(f"sampling: {error.message}") from None
    return parameters


def _load(resolved: Resolved, path: Path) -> LocalModel:
    settings = resolved.settings
    if resolved.origins["parallel"] == "default":
        settings = msgspec.structs.replace(settings, parallel=1)
    if settings.backend == "fake":
        return LocalModel(load_backend(None, settings), settings)
    backend = load_backend(path, settings)
    return LocalModel(backend, settings, load_draft(backend, settings))


def _leave(_: int, __: object) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # The progress bar hides the cursor.
    os._exit(INTERRUPTED)
