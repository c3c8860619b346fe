"""Frozen settings: flag > environment > file > tuned > default; each value knows where it came from.

This module reads the environment and one TOML file and does nothing else. ``resolve`` is called once, by the CLI; the
processes get the result as JSON and read no settings of their own.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from tailrace.errors import ConfigurationError
from tailrace.folders import config_folder

#: The name under which the starter model is stored and served.
STARTER_MODEL = "smollm2-135m"

#: CPUs as the kernel writes them.
CpuList = Annotated[str, Meta(pattern=r"^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$")]

#: A PostgreSQL server and database, as libpq reads it. What it leaves out comes from libpq's own variables and files.
PostgresAddress = Annotated[str, Meta(pattern=r"^postgres(ql)?://")]

#: Types of keys and values in the KV cache.
CacheType = Literal["f16", "bf16", "q8_0", "q4_0"]

Origin = Literal["flag", "environment", "file", "tuned", "default"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, with their ranges. A field's name is the environment variable's, in capitals
    behind ``TAILRACE_``, and the flag's, with dashes, for those that have one.
    """

    # What is served
    model: str = STARTER_MODEL  #: a reference: see docs/models.md
    models_dir: str | None = None  #: folder whose GGUF files have names, and are served, too
    all_models: bool = False  #: whether all models of this machine's stores are served, too
    models_mb: Annotated[int, Meta(ge=0, le=16_777_216)] = 0  #: memory for all loaded models; 0: what the machine has
    alias: str | None = None  #: the name clients see; the store's name or the file's stem when None
    aliases: tuple[Annotated[str, Meta(min_length=1)], ...] = ()  #: further names; ``*`` stands for any characters
    chat_template: str | None = None  #: a template instead of the model's own: llama.cpp's name of one, or a file
    ctx: Annotated[int, Meta(ge=0, le=16_777_216)] = (
        0  #: tokens a request may have; 0 is what the model was trained for
    )
    weights: Literal["as-is", "near-lossless", "fast"] = "as-is"  #: the file's own format, or one that is faster here
    parallel: Annotated[int, Meta(ge=1, le=256)] = 8  #: requests decoded at the same time
    kv_tokens: Annotated[int, Meta(ge=0, le=16_777_216)] = 0  #: max KV cells, all requests together; 0: from memory
    cache_type_k: CacheType = "f16"  #: how keys are stored in the KV cache
    cache_type_v: CacheType = "f16"  #: how values are
    keep_mb: Annotated[int, Meta(ge=0, le=16_777_216)] = 1024  #: host memory for finished sequences' KV, for reuse
    keep_disk_mb: Annotated[int, Meta(ge=-1, le=1_000_000_000)] = -1  #: disk for prefix states; 0: none; -1: automatic
    #: memory for checkpoints of models whose memory can't be cut; 0: none are taken; -1: automatic
    checkpoint_mb: Annotated[int, Meta(ge=-1, le=16_777_216)] = -1
    prefill_chunk: Annotated[int, Meta(ge=1, le=65_536)] = 512  #: prompt tokens a step while nothing else is decoded
    #: max duration of a step with prompt tokens beside decoding sequences; 0: from measured step times
    step_ms: Annotated[int, Meta(ge=0, le=60_000)] = 0
    #: ``local`` and workers' addresses, ``local,10.0.0.2:50052``; None: this machine alone
    devices: Annotated[str, Meta(min_length=1)] | None = None
    placement: str | dict[str, Any] | None = (
        None  #: rules for layers and tensors with ``devices``: a file's, or a table
    )
    gpu_layers: Annotated[int, Meta(ge=-1, le=10_000)] = -1  #: layers on the GPU where there is one; -1 is as planned
    split_mode: Literal["none", "layer", "row"] = "layer"  #: how several GPUs share the model
    tensor_split: Annotated[str, Meta(pattern=r"^\d{1,9}(\.\d{1,9})?(,\d{1,9}(\.\d{1,9})?)*$")] | None = (
        None  #: the GPUs' parts, ``3,1``; None: by their free memory
    )
    main_gpu: Annotated[int, Meta(ge=0, le=1024)] = 0  #: the GPU that has the model with split_mode none
    mmap: bool = True  #: whether the model's file is mapped; otherwise it is read into memory
    mlock: bool = False  #: whether the weights are kept in memory
    override_kv: tuple[str, ...] = ()  #: metadata that the model's file has otherwise, ``KEY=TYPE:VALUE``
    # RoPE: 0, and for YaRN's factors -1, are the model's own values
    rope_scaling: Literal["model", "none", "linear", "yarn"] = "model"
    rope_scale: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0  #: the context is extended so many times
    rope_freq_base: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    rope_freq_scale: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0  #: 1 ÷ rope_scale; it wins
    yarn_orig_ctx: Annotated[int, Meta(ge=0, le=16_777_216)] = 0  #: tokens that the model was trained for before YaRN
    yarn_ext_factor: Annotated[float, Meta(ge=-1, le=1000)] = -1.0
    yarn_attn_factor: Annotated[float, Meta(ge=-1, le=1000)] = -1.0
    yarn_beta_fast: Annotated[float, Meta(ge=-1, le=1_000_000)] = -1.0
    yarn_beta_slow: Annotated[float, Meta(ge=-1, le=1_000_000)] = -1.0
    kernels: Literal["on", "avx512", "avx2", "neon", "off"] = "on"  #: own kernels, where the CPU has the instructions
    speculate: Literal["auto", "mtp", "lookup", "draft", "off"] = "auto"  #: where draft tokens come from
    draft_model: str | None = None  #: as ``model``: a smaller one of the same family, for speculate = draft
    draft_devices: Annotated[str, Meta(min_length=1)] | None = None  #: as ``devices``, for the draft model
    draft_tokens: Annotated[int, Meta(ge=1, le=64)] = 32  #: max draft tokens of a sequence in one step
    backend: Literal["llama", "fake"] = "llama"  #: fake: no model; for protocol tests
    pinned: bool = False  #: the model stays loaded
    idle_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0  #: an idle model is unloaded after it; 0: never
    system_prompt: str | None = None  #: for conversations that have none of their own
    sampling: dict[str, Any] = {}  #: sampling parameters for requests that don't set them, by Ollama's names

    # The machine: what isn't set here is planned (machine/plan.py)
    threads: Annotated[int, Meta(ge=0, le=512)] = 0  #: threads that decode, of each replica; 0: planned
    threads_prefill: Annotated[int, Meta(ge=0, le=512)] = 0  #: threads that read prompts; 0: planned
    cpus: CpuList | None = None  #: CPUs that decode, ``0-3,8``
    cpus_prefill: CpuList | None = None  #: CPUs that read prompts
    http_cpus: CpuList | None = None  #: CPUs of the HTTP process
    pin: Literal["auto", "on", "off"] = "auto"  #: whether threads are bound to CPUs
    poll: Annotated[int, Meta(ge=-1, le=100)] = -1  #: how long threads spin for work; 0 not at all; -1: planned
    thread_priority: Annotated[int, Meta(ge=-1, le=3)] = 0  #: -1 low, 0 normal, 1 medium, 2 high, 3 real time
    replicas: Annotated[int, Meta(ge=0, le=64)] = 0  #: engine processes, one a NUMA node; 0: planned
    numa: Literal["auto", "off"] = "auto"  #: off leaves memory nodes to the kernel

    # Where
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000  #: 0 picks a free one

    # The HTTP side
    api_key: str | None = None  #: None, and no keys file: every client that can connect may use the server
    #: what the cluster's ingress sends to use the private routes below ``/cluster/``; None: there are no such routes
    cluster_secret: Annotated[str, Meta(pattern="^[!-~]{16,256}$")] | None = None
    keys_file: str | None = None  #: named keys; None: keys.json in the settings folder
    keys_store: PostgresAddress | None = None  #: named keys in PostgreSQL instead, for several servers
    tls_cert: str | None = None  #: file with the certificate and its chain (PEM): the server speaks TLS
    tls_key: str | None = None  #: file with the certificate's private key (PEM, not encrypted)
    allowed_hosts: tuple[Annotated[str, Meta(min_length=1)], ...] = ()  #: further names of this server in Host headers
    manage_models: bool = False  #: whether clients may fetch models into the store, make and delete them
    cors_origins: tuple[str, ...] = ("local",)  #: pages that may call; local: apps of the client's own machine
    page: Literal["on", "off"] = "on"  #: whether browsers get the chat page at ``/``
    max_body_mb: Annotated[int, Meta(ge=1, le=4096)] = 32
    keepalive_seconds: Annotated[float, Meta(gt=0, le=3600)] = 10.0  #: silence in a stream before a sign of life
    keepalive_style: Literal["chunk", "comment"] = "chunk"
    responses_mb: Annotated[int, Meta(ge=0, le=1_000_000)] = 512  #: disk for stored responses; 0: none are stored
    responses_days: Annotated[int, Meta(ge=1, le=36_500)] = 30  #: a response that is unused for this long is deleted
    responses_file: str | None = None  #: where they are; None: responses.sqlite in the state folder
    responses_store: PostgresAddress | None = None  #: in PostgreSQL instead, for several servers
    postgres_connections: Annotated[int, Meta(ge=1, le=64)] = 4  #: max connections for what is stored there
    reasoning: Literal["field", "inline"] = "field"  #: reasoning_content, or <think> tags in the text
    engine_wait_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0  #: how long a request waits for a loading engine
    hang_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 8.0  #: without progress a process is replaced; 0: never
    restart_limit: Annotated[int, Meta(ge=0, le=1_000_000)] = 10  #: deaths in a row, each soon after a start; 0: any
    # Admission: 0 seconds is no limit. Clients can shorten the times with headers (server/deadlines.py)
    queue_requests: Annotated[int, Meta(ge=0, le=1_000_000)] = 128  #: requests that may wait beside those that run
    queue_tokens: Annotated[int, Meta(ge=0, le=2**40)] = 0  #: prompt tokens that may wait; 0: a million
    queue_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 0.0  #: time until the engine begins with a request
    first_token_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    total_seconds: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    # Limits of one request
    max_messages: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    max_items: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000  #: of a response's input, or added to a conversation
    max_tools: Annotated[int, Meta(ge=0, le=1_000_000)] = 1024
    max_schema_kb: Annotated[int, Meta(ge=1, le=1_000_000)] = 512  #: of a grammar or schema, or of all tools' schemas
    max_stops: Annotated[int, Meta(ge=0, le=1024)] = 1024  #: stop strings; 16,384 characters in all
    max_prompts: Annotated[int, Meta(ge=1, le=128)] = 128  #: of a completion
    max_inputs: Annotated[int, Meta(ge=1, le=2048)] = 2048  #: texts of a request for embeddings
    max_documents: Annotated[int, Meta(ge=1, le=10_000)] = 2048  #: of a request to rerank
    max_biases: Annotated[int, Meta(ge=0, le=65_536)] = 16_384  #: tokens in ``logit_bias``

    slow_reader_kb: Annotated[int, Meta(ge=16, le=1_048_576)] = 1024  #: max kB that a client may be behind its stream
    send_memory_mb: Annotated[int, Meta(ge=1, le=1_048_576)] = 64  #: memory for all that waits for slow clients
    send_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0  #: how long a client may take none of what waits for it
    header_seconds: Annotated[float, Meta(gt=0, le=3600)] = 20.0  #: time for the head of a request
    body_seconds: Annotated[float, Meta(gt=0, le=3600)] = 30.0  #: how long a body may stand still
    body_memory_mb: Annotated[int, Meta(ge=1, le=1_048_576)] = 256  #: memory for all bodies that are being read
    max_connections: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  #: at a time; 0: 4,096, or what open files allow
    drain_seconds: Annotated[float, Meta(ge=0, le=3600)] = 15.0  #: time for running replies at shutdown

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"
    access_log: bool = True  #: a line for each request, at its end
    log_prompts: bool = False  #: whether those lines have the prompts' text
    #: a longer gap between two tokens of running replies is logged, with what the engine did in it; 0: none is
    log_gap_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 100
    #: an OpenTelemetry collector that gets traces and metrics by OTLP over HTTP; None: its own variables apply
    otlp_endpoint: Annotated[str, Meta(pattern=r"^https?://[^\s/]")] | None = None


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The effective settings, the origin of each, and what the settings file says of single models."""

    settings: Settings
    origins: Mapping[str, Origin]
    models: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  #: by the model's name

    def for_model(self, name: str) -> Resolved:
        """The settings of the model with this name: its own, unless a flag or the environment has another value."""
        section = self.models.get(name, {})
        own = {field: value for field, value in section.items() if self.origins[field] not in ("flag", "environment")}
        origins: dict[str, Origin] = {**self.origins, **dict.fromkeys(own, "file")}
        return dataclasses.replace(self, settings=msgspec.structs.replace(self.settings, **own), origins=origins)

    def tuned(self, values: Mapping[str, Any]) -> Resolved:
        """A copy with ``values``, which ``tailrace tune`` has measured, for settings that still have their defaults.

        Raises ConfigurationError when one can't be.
        """
        new = {name: _checked(name, value, "tuned", strict=True) for name, value in values.items() if name in FIELDS}
        new = {name: value for name, value in new.items() if self.origins[name] == "default"}
        origins: dict[str, Origin] = {**self.origins, **dict.fromkeys(new, "tuned")}
        return dataclasses.replace(self, settings=msgspec.structs.replace(self.settings, **new), origins=origins)


#: Settings whose environment variable has several values.
_LISTS = frozenset({"aliases", "override_kv", "allowed_hosts", "cors_origins"})

#: Settings that a model may have of its own, in a table ``[models.NAME]`` of the settings file. ``path`` is ``model``.
MODEL_FIELDS: frozenset[str] = frozenset(
    {
        "model",
        "alias",
        "aliases",
        "chat_template",
        "ctx",
        "weights",
        "parallel",
        "kv_tokens",
        "cache_type_k",
        "cache_type_v",
        "keep_mb",
        "keep_disk_mb",
        "checkpoint_mb",
        "prefill_chunk",
        "step_ms",
        "devices",
        "placement",
        "gpu_layers",
        "split_mode",
        "tensor_split",
        "main_gpu",
        "mmap",
        "mlock",
        "override_kv",
        "rope_scaling",
        "rope_scale",
        "rope_freq_base",
        "rope_freq_scale",
        "yarn_orig_ctx",
        "yarn_ext_factor",
        "yarn_attn_factor",
        "yarn_beta_fast",
        "yarn_beta_slow",
        "kernels",
        "speculate",
        "draft_model",
        "draft_devices",
        "draft_tokens",
        "threads",
        "threads_prefill",
        "cpus",
        "cpus_prefill",
        "pin",
        "poll",
        "thread_priority",
        "replicas",
        "numa",
        "pinned",
        "idle_seconds",
        "system_prompt",
        "sampling",
    }
)

#: Settings whose values are never shown.
SECRETS = frozenset({"api_key", "cluster_secret", "keys_store", "responses_store"})

FIELDS: tuple[str, ...] = tuple(field.name for field in msgspec.structs.fields(Settings))


def default_file() -> Path:
    """The settings file that is read when none is named: ``$XDG_CONFIG_HOME/tailrace/config.toml``."""
    return config_folder() / "config.toml"


def resolve(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Resolved:
    """Merge flags (None means not given), environment and file over the defaults.

    ``file`` None reads ``default_file()`` when it exists. Raises ConfigurationError, naming the setting and its origin.
    """
    table, models = _read_file(file)
    return _merge(table, models, os.environ if environment is None else environment, flags)


def resolve_table(table: Mapping[str, Any], where: str, environment: Mapping[str, str]) -> Resolved:
    """The settings of a TOML document that was read elsewhere, and of ``environment``. ``where`` names the document in
    errors. Raises ConfigurationError.
    """
    return _merge(*_split_table(table, where), environment, {})


def _merge(
    table: Mapping[str, Any],
    models: dict[str, dict[str, Any]],
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> Resolved:
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = dict.fromkeys(FIELDS, "default")

    def take(layer: Mapping[str, Any], origin: Origin, *, strict: bool) -> None:
        for name, value in layer.items():
            values[name] = _checked(name, value, origin, strict=strict)
            origins[name] = origin

    take(table, "file", strict=True)
    named = {name: environment.get(f"TAILRACE_{name.upper()}") for name in FIELDS}
    given = {name: value for name, value in named.items() if value is not None}
    take({name: _split(name, value) for name, value in given.items()}, "environment", strict=False)
    take({name: value for name, value in flags.items() if value is not None}, "flag", strict=True)
    return Resolved(Settings(**values), origins, models)


def _read_file(file: Path | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The file's settings, and those of each model. Raises ConfigurationError."""
    path = file or default_file()
    if file is None and not path.exists():
        return {}, {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"settings file {path} can't be read: {error}") from error
    return _split_table(table, f"settings file {path}")


def _split_table(table: Mapping[str, Any], where: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The settings of a TOML document, and those of each model, checked. Raises ConfigurationError."""
    models = table.get("models", {})
    own = {name: value for name, value in table.items() if name != "models"}
    unknown = sorted(set(own) - set(FIELDS))
    if unknown:
        raise ConfigurationError(f"{where} has unknown settings: {', '.join(unknown)}")
    if not isinstance(models, dict):
        raise ConfigurationError(f"{where}: models has a table for each model, as in [models.NAME]")
    return own, {name: _check_model(where, name, section) for name, section in models.items()}


def _check_model(where: str, name: str, section: object) -> dict[str, Any]:
    """One model's settings, checked."""
    if not isinstance(section, dict):
        raise ConfigurationError(f"{where}: [models.{name}] has to be a table")
    if "path" in section:
        section = {"model": section["path"], **{key: value for key, value in section.items() if key != "path"}}
    unknown = sorted(set(section) - MODEL_FIELDS)
    if unknown:
        raise ConfigurationError(
            f"{where}: [models.{name}] can't have {', '.join(unknown)}; a model may have path, "
            f"{', '.join(sorted(MODEL_FIELDS))}"
        )
    try:
        return {field: _checked(field, value, "file", strict=True) for field, value in section.items()}
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: [models.{name}] {error}") from error


def _split(name: str, value: str) -> Any:
    return [part.strip() for part in value.split(",")] if name in _LISTS else value


def _checked(name: str, value: Any, origin: Origin, *, strict: bool) -> Any:
    kind = next(field.type for field in msgspec.structs.fields(Settings) if field.name == name)
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        shown = "a secret" if name in SECRETS else repr(value)
        # msgspec doesn't list the values that there are.
        reason = f"name {', '.join(get_args(kind))}" if get_origin(kind) is Literal else str(error)
        raise ConfigurationError(f"{name} ({origin}) can't be {shown}: {reason}") from error
