"""The report of ``tailrace doctor`` as tables and lines for people. It finds nothing out: see ``doctor_facts``."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tailrace.cli import console_output
from tailrace.cli.doctor_facts import Diagnosis, ServerCheck
from tailrace.cli.placement_facts import PlacementFacts
from tailrace.cli.top_screen import finding_line
from tailrace.engine.model_parts import ModelParts, Operations
from tailrace.machine import cpulist
from tailrace.machine.plan import MachinePlan, PoolPlan
from tailrace.protocol import SpeedComparison

#: Weights this many times larger than the last-level caches are read from memory for each token.
_OUTGROWS_CACHE = 8


def show(console: Console, found: Diagnosis) -> None:
    """Write the report."""
    _section(console, "Machine", _machine(found))
    if len(found.nodes) > 1:
        console.print()
        console.print(_nodes(found))
    _kernels(console, found)
    _section(console, "Limits", _limits(found))
    if found.model is not None:
        _section(console, "Model", _model(found))
        if found.model.parts is not None:
            _parts(console, found.model.parts)
        if found.model.placement is not None:
            _heading(console, "Placement")
            _placement(console, found.model.placement)
    if found.plan is not None:
        _heading(console, "Plan")
        _pairs(console, _processes(found.plan))
        console.print()
        console.print(_reasons(found.plan))
    if found.warnings:
        _heading(console, "Worth a look")
        for warning in found.warnings:
            console.print(f"[yellow]![/yellow] {escape(warning)}")
    for server in found.servers:
        _server(console, server)


def _machine(found: Diagnosis) -> Iterable[tuple[str, str]]:
    yield "CPU", found.cpu or found.isa.architecture
    kinds = f", of them {found.efficiency_cores} efficiency cores" if found.efficiency_cores else ""
    up_to = "up to " if found.efficiency_cores else ""
    siblings = f" with {up_to}{found.smt} SMT siblings" if found.smt > 1 else ", no SMT"
    yield (
        "layout",
        f"{_count(found.packages, 'socket')}, {_count(len(found.nodes), 'NUMA node')}, "
        f"{_count(found.cores, 'core')}{siblings}{kinds}",
    )
    if found.cache_bytes:
        sizes = sorted(set(found.cache_bytes))
        each = " or ".join(f"{size / (1 << 20):.0f} MiB" for size in sizes)
        yield "last-level cache", f"{len(found.cache_bytes)} x {each}"
    yield (
        "memory",
        f"{console_output.size(sum(node.memory for node in found.nodes))}, "
        f"{console_output.size(found.available)} available",
    )
    for measured in found.bandwidth:
        rates = ", ".join(f"{_count(count, 'thread')} {rate / 1e9:.1f} GB/s" for count, rate in measured.rates.items())
        where = f" of node {measured.node}" if len(found.nodes) > 1 else ""
        yield f"reads memory{where}", rates
    yield "instruction sets", ", ".join(found.isa.sets) or "not known"
    if found.isa.formats:
        yield "llama.cpp repacks", ", ".join(found.isa.formats)
    for gpu in found.gpus:
        memory = f", {console_output.size(gpu.memory)}" if gpu.memory else ""
        node = f", at node {gpu.node}" if gpu.node is not None and len(found.nodes) > 1 else ""
        yield "GPU", f"{gpu.name or gpu.vendor} ({gpu.address}{memory}{node})"
    if not found.gpus:
        yield "GPU", "none found"
    yield "llama.cpp", f"built for the CPU and {', '.join(found.backends)}" if found.backends else "built for the CPU"


def _kernels(console: Console, found: Diagnosis) -> None:
    _heading(console, "Kernels")
    table = _table("LIBRARY", "TIER", "STATE", "WHY")
    for library in found.libraries:
        colour = {"used": "green", "not used": "dim", "unavailable": "yellow", "wrong": "red"}[library.state]
        state = f"[{colour}]{library.state}[/{colour}]"
        table.add_row(library.name, library.tier, state, escape(library.reason))
    console.print(table)
    console.print()
    _pairs(console, _computed(found))


def _computed(found: Diagnosis) -> Iterable[tuple[str, str]]:
    """Which code computes products, attention and logits."""
    kernels = found.kernels
    yield "llama-cpp-python", kernels.llama_cpp
    yield "products", f"kernels: {', '.join(kernels.formats)}; others llama.cpp" if kernels.formats else "llama.cpp"
    if kernels.repacked:
        yield "repacked", f"{', '.join(kernels.repacked)}, where memory allows"
    heads = "heads of up to 576 numbers, a multiple of 8"
    own = f"kernels: K and V in {', '.join(kernels.cache_types)}, {heads}; others llama.cpp"
    yield "attention", own if kernels.cache_types else "llama.cpp"
    yield "logits", "C" if any(each.state == "used" for each in found.logits_ops) else "NumPy"


def _nodes(found: Diagnosis) -> Table:
    table = _table("NODE", "CORES", "CPUS", "USABLE", "MEMORY", "AVAILABLE", "DISTANCES")
    for node in found.nodes:
        table.add_row(
            str(node.node),
            str(node.cores),
            node.cpus,
            node.usable,
            console_output.size(node.memory),
            console_output.size(node.available),
            " ".join(map(str, node.distances)),
        )
    return table


def _limits(found: Diagnosis) -> Iterable[tuple[str, str]]:
    limits = found.limits
    everything = limits.affinity is None and limits.cpuset is None
    yield "CPUs", f"{limits.usable}, all there are" if everything else limits.usable
    for name, value in (
        ("affinity", limits.affinity),
        ("cpuset", limits.cpuset),
        ("memory nodes", limits.memory_nodes),
    ):
        if value is not None:
            yield name, value
    if limits.quota is not None:
        yield "CPU quota", f"{limits.quota:g} CPUs' worth of time"
    if limits.memory is not None:
        yield (
            "memory limit",
            f"{console_output.size(limits.memory)}, {console_output.size(limits.memory_left or 0)} of it left",
        )


def _model(found: Diagnosis) -> Iterable[tuple[str, str]]:
    assert found.model is not None
    needs = found.model.needs
    yield "name", found.model.name
    yield "weights", console_output.size(needs.weights)
    yield "one whole context", console_output.size(needs.kv) if needs.kv else "not known"
    if found.bandwidth and needs.weights > _OUTGROWS_CACHE * sum(found.cache_bytes):
        best = max(measured.best for measured in found.bandwidth)
        yield "memory allows", f"at most {best / needs.weights:.1f} tokens/s to one stream, if the model is dense"


def _parts(console: Console, parts: ModelParts) -> None:
    """Which kernels compute which part of the model."""
    if parts.products:
        console.print()
        table = _table("PRODUCTS", "FORMAT", "KERNELS", "TENSORS", "SIZE")
        for each in parts.products:
            table.add_row(each.part, each.format, each.kernels, str(each.tensors), console_output.size(each.bytes))
        console.print(table)
    console.print()
    operations = {"attention": parts.attention, **parts.recurrent}
    pairs = [(name, _operations(counted)) for name, counted in operations.items() if counted.own or counted.upstream]
    pairs.append(("keys and values", " and ".join(dict.fromkeys(parts.cache_types))))
    pairs.append(("drafts", "the model's prediction layer (MTP)" if parts.predicts else "no prediction layer is used"))
    _pairs(console, pairs)


def _placement(console: Console, found: PlacementFacts) -> None:
    """Each device's part of the model, and why."""
    size = console_output.size
    table = _table("DEVICE", "LAYERS", "EXPERTS" if found.has_experts else "FFN", "WEIGHTS", "KV", "BUFFERS", "LEFT")
    for each in found.devices:
        left = size(each.left) if each.left >= 0 else f"[yellow]lacks {size(-each.left)}[/yellow]"
        counts = (str(each.layers), str(each.feeds))
        table.add_row(escape(each.name), *counts, size(each.weights), size(each.kv), size(each.buffers), left)
    console.print(table)
    console.print()
    pairs = [
        ("output", f"on {found.output}"),
        ("KV cache", f"{found.tokens} tokens"),
        ("predicted", f"{found.decode:.1f} tokens/s for one reply, prompts {found.prompt:.0f} tokens/s"),
        *(("" if number else "why", reason) for number, reason in enumerate(found.reasons)),
    ]
    assumed = {each.name: ", ".join(each.assumed).replace("_", " ") for each in found.devices if each.assumed}
    pairs += [(f"assumed of {name}", words) for name, words in assumed.items()]
    _pairs(console, pairs)


def _operations(counted: Operations) -> str:
    if counted.own and counted.upstream:
        part = counted.own / (counted.own + counted.upstream)
        return f"own kernels and llama.cpp: {100 * part:.0f} % of the operations are the kernels'"
    return "own kernels" if counted.own else "llama.cpp"


def _processes(plan: MachinePlan) -> Iterable[tuple[str, str]]:
    yield "http", f"CPUs {cpulist.format_cpus(plan.http_cpus)}" if plan.http_cpus else "not bound"
    for number, replica in enumerate(plan.replicas):
        name = "engine" if len(plan.replicas) == 1 else f"engine {number}"
        place = ""
        if replica.node is not None:
            place = f"memory on node {replica.node}; "
        elif replica.interleave:
            place = f"memory spread over nodes {cpulist.format_cpus(replica.interleave)}; "
        if replica.main:
            place += f"main thread on CPU {cpulist.format_cpus(replica.main)}; "
        if replica.decode == replica.prefill:
            yield name, f"{place}decode and prefill: {_pool(replica.decode)}"
        else:
            yield name, f"{place}decode: {_pool(replica.decode)}; prefill: {_pool(replica.prefill)}"


def _pool(pool: PoolPlan) -> str:
    where = f" on CPUs {cpulist.format_cpus(pool.cpus)}" if pool.cpus else ", not bound"
    strict = ", each on its own" if pool.strict and pool.threads > 1 else ""
    priority = f", priority {pool.priority}" if pool.priority else ""
    return f"{_count(pool.threads, 'thread')}{where}{strict}, poll {pool.poll}{priority}"


def _reasons(plan: MachinePlan) -> Table:
    table = _table("CHOICE", "VALUE", "WHY")
    for reason in plan.reasons:
        table.add_row(reason.choice, reason.value, escape(reason.why))
    return table


def _server(console: Console, server: ServerCheck) -> None:
    _heading(console, f"Applied on port {server.port} ({server.model})")
    table = _table("PROCESS", "PID", "PLANNED", "FOUND", "")
    for process in server.processes:
        verdict = "[red]differs[/red]" if process.problems else "[green]ok[/green]"
        pid = "" if process.pid is None else str(process.pid)
        table.add_row(process.process, pid, process.planned, process.found, verdict)
    console.print(table)
    for process in server.processes:
        for problem in process.problems:
            console.print(f"[red]{process.process}[/red]: {escape(problem)}")
    for speed in server.speeds:
        console.print(_speed(speed), soft_wrap=True)
    for finding in server.findings:
        console.print(finding_line(finding, advice=True))
    if server.unread:
        console.print(f"[yellow]what limits it isn't known[/yellow]: {escape(server.unread)}")


def _speed(speed: SpeedComparison) -> str:
    """A placed model's speed beside the predicted one."""
    decode, prompt = (f"{rate:.1f}" if rate else "not measured yet" for rate in (speed.decode, speed.prompt))
    found = (
        f"decodes {decode} tokens/s, predicted {speed.predicted_decode:.1f}; "
        f"prompts {prompt}, predicted {speed.predicted_prompt:.1f}"
    )
    return f"{found}. [yellow]{escape(speed.reason)}[/yellow]" if speed.reason else found


def _section(console: Console, title: str, pairs: Iterable[tuple[str, str]]) -> None:
    _heading(console, title)
    _pairs(console, pairs)


def _heading(console: Console, title: str) -> None:
    console.print(f"\n[bold]{escape(title)}[/bold]")


def _pairs(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, escape(value))
    console.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
