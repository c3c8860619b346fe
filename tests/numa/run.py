"""Proves the binding on a real kernel with two NUMA nodes: ``make test-numa``.

Debian's kernel runs in QEMU's software emulation, with 4 CPUs and two nodes, and the real supervisor starts two
replicas' processes there. ``guest.py`` is what runs inside.
Needs Debian or Ubuntu on x86_64; installs QEMU when it may.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from initramfs import write_initramfs

QEMU = "qemu-system-x86_64"
#: The package that depends on the newest kernel. Debian's cloud kernel is small; Ubuntu's is another.
KERNELS = ("linux-image-cloud-amd64", "linux-image-amd64", "linux-image-generic")
NODE_MB = 1024
#: Seconds for the whole of it inside the guest.
LIMIT = 900


def main() -> int:
    """The exit status: 0 when everything was where it belongs."""
    if platform.machine() != "x86_64" or shutil.which("apt-get") is None:
        print("make test-numa needs Debian or Ubuntu on x86_64.", file=sys.stderr)
        return 2
    if shutil.which(QEMU) is None and not install():
        return 2
    kernel = find_kernel()
    with tempfile.TemporaryDirectory(prefix="tailrace-numa-") as folder:
        archive = Path(folder, "initramfs")
        write_initramfs(archive)
        print(f"{kernel.name}, initramfs of {archive.stat().st_size / 1e6:.0f} MB; starting the guest", flush=True)
        return run(kernel, archive)


def install() -> bool:
    """QEMU from the distribution's packages; says what to do where this user may not."""
    if os.geteuid() != 0:
        print("Install QEMU first: sudo apt-get install qemu-system-x86", file=sys.stderr)
        return False
    done = subprocess.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "qemu-system-x86"], check=False)
    return done.returncode == 0


def find_kernel() -> Path:
    """The kernel's image, taken out of its package once. Nothing is installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tailrace" / "numa"
    if found := sorted(cache.glob("vmlinuz-*")):
        return found[-1]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        work.chmod(0o755)  # apt downloads as a user of its own.
        subprocess.run(["apt-get", "download", "-q", _package()], cwd=work, check=True)
        (package,) = work.glob("*.deb")
        subprocess.run(["dpkg", "-x", package, work / "out"], check=True)
        (image,) = (work / "out" / "boot").glob("vmlinuz-*")
        return Path(shutil.move(image, cache / image.name))


def _package() -> str:
    for name in KERNELS:
        shown = subprocess.run(["apt-cache", "depends", name], capture_output=True, text=True, check=False).stdout
        for line in shown.splitlines():
            word = line.split(":", 1)[-1].strip()
            if word.startswith("linux-image-") and word != name:
                return word
    raise SystemExit(f"none of the packages {', '.join(KERNELS)} is known to apt: run apt-get update")


def run(kernel: Path, archive: Path) -> int:
    """Start the guest and show its console; its last line decides."""
    command = [
        QEMU,
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "4",
        "-m",
        f"{2 * NODE_MB}M",
    ]
    for node, cpus in enumerate(("0-1", "2-3")):
        command += ["-object", f"memory-backend-ram,id=m{node},size={NODE_MB}M"]
        command += ["-numa", f"node,nodeid={node},cpus={cpus},memdev=m{node}"]
    command += [
        "-kernel",
        str(kernel),
        "-initrd",
        str(archive),
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
        "-net",
        "none",
    ]
    # A parameter that the kernel doesn't know becomes a variable of the first process.
    command += ["-append", f"console=ttyS0 quiet panic=-1 PYTHONPATH={Path(__file__).resolve().parents[2] / 'src'}"]
    passed = False
    guest = subprocess.Popen(
        ["timeout", str(LIMIT), *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert guest.stdout is not None
    for line in guest.stdout:
        print(line, end="", flush=True)
        passed = passed or line.strip() == "NUMA TEST passed"
    guest.wait()
    if not passed:
        print("the guest didn't say that the test has passed", file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
