"""A QEMU that speaks vfio-user (10.1 or newer): the system's, or Debian's trixie-backports unpacked beside the caches.

Its packages are unpacked, not installed: the system stays as it is. They run by their own loader and libraries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from guest import Missing

from tools.fetch_sources import system_mirrors

__all__ = ["modern_qemu"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "amdrv" / "qemu"
SUITES = ("trixie", "trixie-backports")
NEEDS = (10, 1)


def version(qemu: str) -> tuple[int, int]:
    done = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def modern_qemu() -> str:
    """A command. :raises Missing: there is none and it cannot be fetched."""
    for named in (os.environ.get("AMDRV_QEMU"), shutil.which("qemu-system-x86_64")):
        if named and version(named) >= NEEDS:
            return named
    start = CACHE / "qemu"
    if not start.is_file() or version(str(start)) < NEEDS:
        _fetch(start)
    return str(start)


def _fetch(start: Path) -> None:
    if shutil.which("apt-get") is None:
        raise Missing("QEMU 10.1 or newer (vfio-user) is not here; name one with AMDRV_QEMU")
    mirrors = system_mirrors()
    if not mirrors:
        raise Missing("apt's sources name no Debian mirror to fetch QEMU from")
    mirror, key = mirrors[0]
    apt = CACHE / "apt"
    for folder in ("lists/partial", "archives/partial", "dpkg"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "dpkg/status").write_text("")        # nothing is installed: the whole closure of packages comes
    signed = f" [signed-by={key}]" if key else ""
    (apt / "sources.list").write_text("".join(f"deb{signed} {mirror} {suite} main\n" for suite in SUITES))
    (apt / "apt.conf").write_text(f'''Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "{apt}/lists";
Dir::State::status "{apt}/dpkg/status";
Dir::Cache "{apt}";
Dir::Cache::archives "{apt}/archives";
APT::Sandbox::User "";
APT::Install-Recommends "false";
Acquire::Languages "none";
''')
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "-d", "-t", SUITES[-1], "qemu-system-x86"]):
        done = subprocess.run(["apt-get", "-q", *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"apt-get {command[0]} of {SUITES[-1]}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    root = CACHE / "root"
    shutil.rmtree(root, ignore_errors=True)
    for package in sorted((apt / "archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(package), str(root)], check=True)
        package.unlink()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    start.write_text(f"""#!/bin/sh
export QEMU_MODULE_DIR={libraries}/qemu
exec {root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {libraries} --argv0 qemu-system-x86_64 \\
    {root}/usr/bin/qemu-system-x86_64 -L {root}/usr/share/qemu -L {root}/usr/share/seabios \\
    -L {root}/usr/lib/ipxe/qemu "$@"
""")
    start.chmod(0o755)
    if version(str(start)) < NEEDS:
        raise Missing(f"the QEMU of {SUITES[-1]} is {'.'.join(map(str, version(str(start))))}; vfio-user needs 10.1")
