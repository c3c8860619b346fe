"""A root folder with Debian's Python and C library and nothing else: no compiler, no make, no shell, no tailrace.

It needs no container program: the packages are unpacked, and commands run in it through user and mount namespaces. As
in a container, ``/proc``, ``/dev`` and the network are the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

#: What is in it, with what that depends on. manylinux promises libstdc++ to wheels, so NumPy's needs it, too.
_PACKAGES = ("python3-venv", "libstdc++6", "zlib1g")
#: Of these dependencies: what Python runs without.
_LEFT_OUT = ("libperl", "libnewt", "libslang", "libtextwrap", "libdebian", "libgdbm")
#: How a command reaches the network and the machine's package index.
_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
_VARIABLES = ("PIP_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")
#: The folders that usrmerge makes links of.
_MERGED = ("bin", "sbin", "lib", "lib64")


class DebianRoot:
    """The folder, which the constructor fills. Raises CalledProcessError without the network or apt's lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        packages = folder.with_name(f"{folder.name}-packages")
        packages.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "-qq", *_closure()], cwd=packages, check=True, capture_output=True)
        for name in _MERGED:
            (folder / "usr" / name).mkdir(parents=True)
            (folder / name).symlink_to(f"usr/{name}")
        for package in sorted(packages.glob("*.deb")):
            content = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], check=True, capture_output=True)
            # The links above stay links.
            tar = ["tar", "--extract", "--no-same-owner", "--keep-directory-symlink", "--directory", str(folder)]
            subprocess.run(tar, input=content.stdout, check=True)
        shutil.rmtree(packages)
        for name in ("proc", "dev", "tmp", "etc", "root"):
            (folder / name).mkdir(exist_ok=True)
        for file in map(Path, _FILES):
            if file.is_file():
                place = folder / file.relative_to("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)

    def command(self, *words: str, cpuinfo: Path | None = None) -> list[str]:
        """What runs ``words`` inside. ``cpuinfo``: a file in place of /proc/cpuinfo, as on another CPU."""
        inside = self.folder
        mounts = f"mount --rbind /proc {inside}/proc && mount --rbind /dev {inside}/dev"
        if cpuinfo is not None:
            mounts += f" && mount --bind {cpuinfo} {inside}/proc/cpuinfo"
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        # Only root's PATH has it.
        chroot = shutil.which("chroot", path=f"{os.defpath}:/usr/sbin:/sbin") or "chroot"
        return ["unshare", *user, "--mount", "sh", "-ec", f'{mounts} && exec {chroot} {inside} "$@"', "sh", *words]

    def environment(self) -> Mapping[str, str]:
        """The environment of commands inside: the machine's way to the package index, and no more."""
        passed = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        return {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **passed}


def _closure() -> list[str]:
    """The packages and what they depend on."""
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", "depends", "--recurse", *(f"--no-{kind}" for kind in kinds), *_PACKAGES]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    names = {line for line in done.stdout.splitlines() if line[:1].isalnum()}
    return sorted(
        name for name in names if name.startswith(("lib", "python3", "zlib")) and not name.startswith(_LEFT_OUT)
    )
