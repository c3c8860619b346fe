"""``tailrace serve``: the server, in the foreground, or with ``--detach`` in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli import background_server
from tailrace.cli.served_models import served_models
from tailrace.errors import ConfigurationError
from tailrace.observe import logs
from tailrace.observe.telemetry import check_installed
from tailrace.server.postgres.address import check_no_password
from tailrace.server.start_check import check_http_settings
from tailrace.settings import resolve
from tailrace.supervisor import Supervisor

#: Parameters of the command that are no settings.
_NO_SETTINGS = frozenset({"config", "detach", "embeddings", "jinja", "models", "rerank"})


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Paths, names, hf:ORG/REPO:QUANT, ollama:MODEL:TAG."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Serve in the background: see tailrace ps, logs and stop.")
    ] = False,
    models_dir: Annotated[str | None, typer.Option(help="Folder whose GGUF files are served, too.")] = None,
    all_models: Annotated[
        bool | None, typer.Option(help="Serve all models of this machine, too: see tailrace list [no].")
    ] = None,
    models_mb: Annotated[int | None, typer.Option(help="Memory for all loaded models, in MB [what there is].")] = None,
    idle_seconds: Annotated[
        float | None, typer.Option(help="Idle time after which one of several models is unloaded; 0: never [0].")
    ] = None,
    pinned: Annotated[bool | None, typer.Option(help="Never unload a model that is loaded [no].")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on [8000]; 0 picks a free one.")] = None,
    alias: Annotated[str | None, typer.Option("--alias", "-a", help="Model name that clients see.")] = None,
    aliases: Annotated[
        list[str] | None, typer.Option(help="Further names that clients may use, such as 'claude-*'.")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="Chat template instead of the model's own: a name, or a file (Jinja).")
    ] = None,
    jinja: Annotated[bool | None, typer.Option(hidden=True, help="llama-server's: always so here.")] = None,
    embeddings: Annotated[
        bool | None, typer.Option("--embedding", "--embeddings", hidden=True, help="llama-server's: always so here.")
    ] = None,
    rerank: Annotated[
        bool | None, typer.Option("--reranking", "--rerank", hidden=True, help="llama-server's: always so here.")
    ] = None,
    ctx: Annotated[
        int | None,
        typer.Option("--ctx", "--ctx-size", "-c", help="Tokens that one request may have [what the model knows]."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="as-is, or converted once: near-lossless or fast [as-is].")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", "-np", help="Requests decoded at the same time [8].")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", help="Threads that decode [planned: tailrace doctor].")
    ] = None,
    threads_prefill: Annotated[
        int | None,
        typer.Option("--threads-prefill", "--threads-batch", "-tb", help="Threads that read prompts [as many]."),
    ] = None,
    cpus: Annotated[str | None, typer.Option(help="CPUs that decode, such as 0-3,8 [planned].")] = None,
    cpus_prefill: Annotated[str | None, typer.Option(help="CPUs that read prompts [those that decode].")] = None,
    http_cpus: Annotated[str | None, typer.Option(help="CPUs of the HTTP process [planned].")] = None,
    pin: Annotated[str | None, typer.Option(help="Bind threads to CPUs: auto, on or off [auto].")] = None,
    poll: Annotated[int | None, typer.Option(help="How long threads spin for work, 0 to 100 [planned].")] = None,
    thread_priority: Annotated[int | None, typer.Option(help="-1 low, 0 normal, to 3 real time [0].")] = None,
    replicas: Annotated[int | None, typer.Option(help="Engine processes, one a NUMA node [planned].")] = None,
    numa: Annotated[str | None, typer.Option(help="auto, or off: memory lies where the kernel puts it [auto].")] = None,
    kv_tokens: Annotated[int | None, typer.Option(help="KV cache, in tokens of all requests together.")] = None,
    keep_mb: Annotated[int | None, typer.Option(help="Memory for finished prompts' KV, in MB [1024].")] = None,
    keep_disk_mb: Annotated[
        int | None, typer.Option(help="Disk for the KV of models that are unloaded, in MB [with several models].")
    ] = None,
    checkpoint_mb: Annotated[
        int | None, typer.Option(help="Memory for checkpoints of recurrent and hybrid models, in MB [automatic].")
    ] = None,
    cache_type_k: Annotated[
        str | None, typer.Option("--cache-type-k", "-ctk", help="Keys in the KV cache: f16, bf16, q8_0 or q4_0 [f16].")
    ] = None,
    cache_type_v: Annotated[
        str | None, typer.Option("--cache-type-v", "-ctv", help="Values in the KV cache, as for keys [f16].")
    ] = None,
    prefill_chunk: Annotated[
        int | None, typer.Option(help="Prompt tokens a step when nothing else runs [512].")
    ] = None,
    step_ms: Annotated[
        int | None, typer.Option(help="Longest step beside running replies, in ms [from measured speeds].")
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="local and workers, such as local,10.0.0.2:50052 [this machine].")
    ] = None,
    placement: Annotated[
        str | None, typer.Option(help="File of rules: which device has which layers and tensors [by free memory].")
    ] = None,
    gpu_layers: Annotated[
        int | None,
        typer.Option(
            "--gpu-layers", "--n-gpu-layers", "-ngl", help="Layers on the GPU, where there is one [as planned]."
        ),
    ] = None,
    split_mode: Annotated[
        str | None, typer.Option("--split-mode", "-sm", help="How GPUs share the model: layer, row or none [layer].")
    ] = None,
    tensor_split: Annotated[
        str | None, typer.Option("--tensor-split", "-ts", help="The GPUs' parts, such as 3,1 [by free memory].")
    ] = None,
    main_gpu: Annotated[int | None, typer.Option("--main-gpu", "-mg", help="The GPU with split mode none [0].")] = None,
    mmap: Annotated[bool | None, typer.Option(help="Map the model's file; --no-mmap reads it [yes].")] = None,
    mlock: Annotated[bool | None, typer.Option(help="Keep the model in memory [no].")] = None,
    override_kv: Annotated[
        list[str] | None, typer.Option(help="Metadata instead of the file's: KEY=TYPE:VALUE.")
    ] = None,
    rope_scaling: Annotated[str | None, typer.Option(help="none, linear or yarn [as the file says].")] = None,
    rope_scale: Annotated[float | None, typer.Option(help="Extend the trained context so many times.")] = None,
    rope_freq_base: Annotated[float | None, typer.Option(help="Base of RoPE's frequencies.")] = None,
    rope_freq_scale: Annotated[float | None, typer.Option(help="Factor of the positions: 1 / --rope-scale.")] = None,
    yarn_orig_ctx: Annotated[int | None, typer.Option(help="Tokens trained for before YaRN.")] = None,
    yarn_ext_factor: Annotated[float | None, typer.Option(help="YaRN's mix of extrapolation.")] = None,
    yarn_attn_factor: Annotated[float | None, typer.Option(help="YaRN's factor of attention.")] = None,
    yarn_beta_fast: Annotated[float | None, typer.Option(help="YaRN's low correction dimension.")] = None,
    yarn_beta_slow: Annotated[float | None, typer.Option(help="YaRN's high correction dimension.")] = None,
    kernels: Annotated[
        str | None, typer.Option(help="Kernels of our own: on, avx512 (without AMX), avx2, neon (ARM) or off [on].")
    ] = None,
    speculate: Annotated[
        str | None, typer.Option(help="Draft tokens: auto, mtp, lookup, draft (needs --draft-model) or off [auto].")
    ] = None,
    draft_model: Annotated[
        str | None, typer.Option(help="A small model of the same family that drafts tokens.")
    ] = None,
    draft_devices: Annotated[
        str | None, typer.Option(help="Devices of the draft model, as --devices [this machine].")
    ] = None,
    draft_tokens: Annotated[int | None, typer.Option(help="Max draft tokens of a reply in one step [32].")] = None,
    api_key: Annotated[str | None, typer.Option(help="Key to ask for; better set TAILRACE_API_KEY.")] = None,
    keys_file: Annotated[
        str | None, typer.Option(help="File of named keys (tailrace keys) [keys.json in the settings folder].")
    ] = None,
    keys_store: Annotated[
        str | None, typer.Option(help="PostgreSQL with the named keys, for several servers: postgresql://...")
    ] = None,
    tls_cert: Annotated[str | None, typer.Option(help="Certificate file (PEM): serve https.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="The certificate's private key file (PEM).")] = None,
    allowed_hosts: Annotated[
        list[str] | None, typer.Option(help="Further host names of this server; for servers without a key.")
    ] = None,
    manage_models: Annotated[bool | None, typer.Option(help="Let clients fetch, make and delete models [no].")] = None,
    cors_origins: Annotated[list[str] | None, typer.Option(help="Origins whose web pages may call [local].")] = None,
    page: Annotated[str | None, typer.Option(help="The chat page for browsers at /: on or off [on].")] = None,
    max_body_mb: Annotated[int | None, typer.Option(help="Largest request body, in MB [32].")] = None,
    queue_requests: Annotated[
        int | None, typer.Option(help="Requests that may wait beside those that run [128].")
    ] = None,
    queue_tokens: Annotated[int | None, typer.Option(help="Prompt tokens that may wait [1000000].")] = None,
    queue_seconds: Annotated[
        float | None, typer.Option(help="Longest wait in the queue; 0: any. Clients can shorten it [0].")
    ] = None,
    first_token_seconds: Annotated[
        float | None, typer.Option(help="Longest time to the first token; 0: any [0].")
    ] = None,
    total_seconds: Annotated[float | None, typer.Option(help="Longest time of a request; 0: any [0].")] = None,
    max_connections: Annotated[
        int | None, typer.Option(help="Connections at a time [4096, or what open files allow].")
    ] = None,
    body_memory_mb: Annotated[
        int | None, typer.Option(help="Memory for bodies that are being read, in MB [256].")
    ] = None,
    keepalive_seconds: Annotated[float | None, typer.Option(help="Silence before a sign of life [10].")] = None,
    keepalive_style: Annotated[str | None, typer.Option(help="chunk or comment [chunk].")] = None,
    responses_mb: Annotated[int | None, typer.Option(help="Disk for stored responses, in MB; 0: none [512].")] = None,
    responses_days: Annotated[int | None, typer.Option(help="Days that an unused one is kept [30].")] = None,
    responses_store: Annotated[
        str | None, typer.Option(help="PostgreSQL for stored responses, for several servers: postgresql://...")
    ] = None,
    reasoning: Annotated[str | None, typer.Option(help="field or inline (<think> tags) [field].")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Time for running replies at shutdown [15].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json [console].")] = None,
    access_log: Annotated[bool | None, typer.Option(help="A log line for each request [yes].")] = None,
    log_prompts: Annotated[bool | None, typer.Option(help="Have prompts in those lines [no].")] = None,
    log_gap_ms: Annotated[int | None, typer.Option(help="Log longer gaps between two tokens; 0: none [100].")] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="OpenTelemetry collector, such as http://127.0.0.1:4318 [none].")
    ] = None,
    backend: Annotated[str | None, typer.Option(hidden=True)] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")] = None,
) -> None:
    """Serve MODEL (the starter model by default) over HTTP until Ctrl-C. Several are loaded as requests need them."""
    flags = {name: value for name, value in locals().items() if name not in _NO_SETTINGS}
    check_no_password("--keys-store", keys_store)
    check_no_password("--responses-store", responses_store)
    if jinja is False:
        raise ConfigurationError("--no-jinja: templates are always Jinja; leave it out, or name a --chat-template")
    server = resolve({name: value for name, value in flags.items() if name.startswith("log_")}, file=config).settings
    logs.configure("supervisor", level=server.log_level, form=server.log_format)
    served = served_models(models or (), flags, config)
    check_installed(served.settings.otlp_endpoint)
    check_http_settings(served.settings)
    if detach:
        background_server.report(background_server.start(served))
        return
    raise typer.Exit(Supervisor(served.settings, served.specs).run())
