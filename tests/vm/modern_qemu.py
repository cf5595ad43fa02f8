"""A QEMU that speaks vfio-user (10.1 or newer): the system's, or Debian's trixie-backports unpacked beside the caches.

Its packages are unpacked, not installed: the system stays as it is. They run by their own loader and libraries.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from debian_backports import BACKPORTS, Apt
from guest import Missing

__all__ = ["modern_qemu"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "amdrv" / "qemu"
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
    try:
        apt = Apt(CACHE / "apt")
    except Missing as missing:
        raise Missing(f"QEMU 10.1 or newer (vfio-user) is not here, AMDRV_QEMU may name one; {missing}") from missing
    root = CACHE / "root"
    shutil.rmtree(root, ignore_errors=True)
    apt.unpack_closure(["qemu-system-x86"], root)
    libraries = root / "usr/lib/x86_64-linux-gnu"
    start.write_text(f"""#!/bin/sh
export QEMU_MODULE_DIR={libraries}/qemu
exec {root}/usr/lib64/ld-linux-x86-64.so.2 --library-path {libraries} --argv0 qemu-system-x86_64 \\
    {root}/usr/bin/qemu-system-x86_64 -L {root}/usr/share/qemu -L {root}/usr/share/seabios \\
    -L {root}/usr/lib/ipxe/qemu "$@"
""")
    start.chmod(0o755)
    if version(str(start)) < NEEDS:
        raise Missing(f"the QEMU of {BACKPORTS} is {'.'.join(map(str, version(str(start))))}; vfio-user needs 10.1")
