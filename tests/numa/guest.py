"""The guest's first process: starts tailrace as a user would, and asks the kernel where its processes are.

It prints a table and one last line that the host looks for, and turns the machine off whatever happens. Everything is
compared with what /sys says of this machine, not with the plan.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tailrace.machine import cpulist
from tailrace.machine.applied_placement import AppliedPlacement, read_applied_placement

#: What each engine holds in place of a model's weights.
WEIGHTS_MB = 200
PORT = 8000
#: Seconds until the engines have to be there: the emulated machine is slow.
PATIENCE = 240.0

#: Runs on one node's CPUs and takes memory from the other: shows that memory follows its policy, not its thread.
CROSSED = """
import sys
from tailrace.machine.binding import bind_cpus, bind_memory
from tailrace.machine.plan import PoolPlan, ReplicaPlan
pool = PoolPlan(1, (3,))
plan = ReplicaPlan(node=0, decode=pool, prefill=pool)
bind_cpus(plan.cpus)
bind_memory(plan)
held = b"\\1" * 100_000_000
print("ready", flush=True)
sys.stdin.read()
"""


def main() -> None:
    prepare()
    status = "failed"
    try:
        check()
        status = "passed"
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    print(f"NUMA TEST {status}", flush=True)
    os.sync()
    # LINUX_REBOOT_CMD_POWER_OFF
    ctypes.CDLL(None).reboot(ctypes.c_uint(0x4321FEDC))


def prepare() -> None:
    """What a distribution's first process does: file systems, and an interface for 127.0.0.1."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, where in ((b"proc", b"/proc"), (b"sysfs", b"/sys"), (b"devtmpfs", b"/dev")):
        if libc.mount(kind, where, kind, 0, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {where!r}")
    with socket.socket() as sock:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(sock, 0x8914, request)  # SIOCSIFFLAGS
    os.environ.update(HOME="/root", PATH="/usr/bin:/bin", TMPDIR="/tmp")


def check() -> None:
    folders = sorted(Path("/sys/devices/system/node").glob("node[0-9]*"))
    nodes = {int(folder.name[4:]): set(cpulist.parse((folder / "cpulist").read_text())) for folder in folders}
    print(f"kernel {os.uname().release}, nodes {nodes}", flush=True)
    assert len(nodes) == 2

    print(f"\n{'process':8} {'pid':>5} {'threads':>7}  {'CPUs':6} {'node 0 MB':>9} {'node 1 MB':>9}")
    wrong = [*serve(nodes, http=set().union(*nodes.values())), *serve(nodes, "--http-cpus", "0", http={0})]

    crossed = subprocess.Popen([sys.executable, "-c", CROSSED], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert crossed.stdout is not None
    assert crossed.stdout.readline() == b"ready\n"
    found = look("crossed", crossed.pid)
    if found.cpus != {3} or found.memory.get(0, 0) < 100e6 or found.memory.get(1, 0) > 2e6:
        wrong.append("memory bound to node 0 doesn't lie there when its thread runs on node 1")
    crossed.communicate()
    print()
    assert not wrong, "; ".join(wrong)


def serve(nodes: Mapping[int, set[int]], *arguments: str, http: set[int]) -> list[str]:
    """Start tailrace, have both replicas answer, and say what isn't where it belongs: each replica on its node, the
    HTTP process on ``http``.
    """
    tailrace = str(Path(sys.executable).with_name("tailrace"))
    command = [tailrace, "serve", "--backend", "fake", "--port", str(PORT), "--log-level", "warning", *arguments]
    environment = {**os.environ, "TAILRACE_FAKE_WEIGHTS_MB": str(WEIGHTS_MB)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    wait_for("both replicas", lambda: health().get("replicas_ready") == 2)
    requests = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for request in requests:
        request.start()
    for request in requests:
        request.join()
    wrong: list[str] = []
    for node, pid in enumerate(children(server.pid, "tailrace.engine.process")):
        found = look(f"engine {node}", pid)
        if not found.cpus <= nodes[node]:
            wrong.append(f"engine {node} has threads that may leave node {node}'s CPUs {nodes[node]}")
        here, elsewhere = found.memory.get(node, 0), found.memory.get(1 - node, 0)
        if here < WEIGHTS_MB * 1e6 or elsewhere > 0.02 * here:
            wrong.append(f"engine {node} has {here} bytes on its node and {elsewhere} on the other")
    for pid in children(server.pid, "tailrace.server.process"):
        if look("HTTP", pid).cpus != http:
            wrong.append(f"the HTTP process isn't on CPUs {http}")
    server.terminate()
    assert server.wait(60) == 0
    return wrong


def look(name: str, pid: int) -> AppliedPlacement:
    """What is in force for a process, which also becomes a row of the table."""
    found = read_applied_placement(Path("/proc", str(pid)))
    assert found is not None
    sizes = [found.memory.get(node, 0) / 1e6 for node in (0, 1)]
    cpus = cpulist.format_cpus(found.cpus)
    print(f"{name:8} {pid:5} {len(found.threads):7}  {cpus:6} {sizes[0]:9.1f} {sizes[1]:9.1f}", flush=True)
    return found


def children(parent: int, module: str) -> list[int]:
    """The children that run ``module``, in the order of their start."""
    found: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        stat = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        if int(stat[1]) == parent and module.encode() in (folder / "cmdline").read_bytes():
            found.append(int(folder.name))
    assert found, f"no {module} runs"
    return sorted(found)


def health() -> dict[str, object]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=30) as reply:
            found: dict[str, object] = json.load(reply)
            return found
    except OSError:
        return {}  # Not listening yet, or 503 while it loads.


def ask(number: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": f"<say>reply {number}</say>"}]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        said = json.load(reply)["choices"][0]["message"]["content"]
    assert said == f"reply {number}", said


def wait_for(what: str, condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)


if __name__ == "__main__":
    main()
