"""``tailrace show``: all facts of one model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from tailrace.cli import console_output, model_words
from tailrace.cli.model_rows import ModelRow, RowMaker
from tailrace.machine.free_memory import read_memory
from tailrace.machine.plan_wording import memory_size
from tailrace.models.model_reference import locate_model
from tailrace.models.model_summary import ModelSummary
from tailrace.models.stores.own_store import read_own_store
from tailrace.settings import resolve

#: Characters of a text, such as a system prompt, that are shown.
_SHOWN = 300


def show(
    model: Annotated[str, typer.Argument(help="A reference: a path, a name, hf:ORG/REPO:QUANT, ollama:MODEL:TAG.")],
    models_dir: Annotated[Path | None, typer.Option(help="A folder of models beside the stores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, with the metadata except arrays.")] = False,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")] = None,
) -> None:
    """Show the facts of one model on this machine, and what of it works here."""
    settings = resolve({"models_dir": str(models_dir) if models_dir else None}, file=config).settings
    memory = read_memory()
    file = locate_model(model, models_dir=settings.models_dir, memory=memory.total)
    found = file.found or next((each for each in read_own_store().models if each.path == file.path), None)
    maker = RowMaker(settings, memory)
    row = maker.row(found) if found is not None else maker.path_row(file.path, file.name)
    summary = maker.summary(row.path)
    if as_json:
        shown = {**msgspec.to_builtins(row, enc_hook=str), "metadata": summary.values, "formats": _formats(summary)}
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in _facts(row, summary):
        table.add_row(heading, Text(text))
    console_output.stdout().print(table)


def _facts(row: ModelRow, summary: ModelSummary) -> list[tuple[str, str]]:
    works, memory = row.works, row.memory
    assert works is not None
    assert memory is not None
    facts = [
        ("reference", row.reference),
        ("name for clients", row.name),
        ("title", row.title or ""),
        ("store", row.store or "none: a path"),
        ("file", str(row.path) + (f", the first of {row.files} shards" if row.files > 1 else "")),
        ("revision", row.revision or ""),
        ("size", console_output.size(row.bytes)),
        ("quantisation", row.quantisation or "?"),
        ("family", row.architecture or "?"),
        ("parameters", model_words.count(row.parameters)),
        ("context", f"{row.context or '?'} tokens"),
        ("memory", _memory(row)),
        ("fits", _fit(row)),
        ("kernels", f"{row.kernels}: {100 * (row.kernels_part or 0):.0f} % of the weights are computed by tailrace's"),
        ("weights", ", ".join(f"{name} {part:.0%}" for name, part in _formats(summary).items())),
        ("works", ", ".join(works.words) or "nothing"),
        ("tools", {"template": "by its template", "prompt": "described in the prompt", "none": "no"}[works.tools]),
        ("images", "no"),
        ("chat template", "its own" if row.chat_template else "ChatML: it has none" if works.text else "none"),
        ("system prompt", _short(row.system)),
        ("sampling", ", ".join(f"{name}={value}" for name, value in row.sampling.items())),
        ("projector", str(row.projector or "")),
        ("adapters", ", ".join(map(str, row.adapters))),
        ("licence", row.licence),
        *(("note", note) for note in row.notes),
        ("error", row.error or ""),
    ]
    return [(heading, text) for heading, text in facts if text]


def _memory(row: ModelRow) -> str:
    assert row.memory is not None
    cells = row.memory.bytes_per_token * (row.context or 0)
    kv = f", KV cache of the whole context {memory_size(cells)}" if cells else ""
    return f"weights {memory_size(row.memory.weights)}, buffers {memory_size(row.memory.buffers)}{kv}"


def _fit(row: ModelRow) -> str:
    match row.fits:
        case "yes":
            return "yes, with its whole context" if row.context else "yes"
        case "smaller context":
            return f"with a context of {row.fitting_context} tokens"
        case _:
            return "no: tailrace serve says the numbers"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _formats(summary: ModelSummary) -> dict[str, float]:
    """The part of the weights in each format, the largest first."""
    from gguf import GGMLQuantizationType

    names = {each.value: each.name for each in GGMLQuantizationType}
    total = max(1, sum(summary.matrices.values()))
    ordered = sorted(summary.matrices.items(), key=lambda item: -item[1])
    return {names.get(number, str(number)): weights / total for number, weights in ordered}
