"""An initial RAM disk made of busybox, kernel modules and our init script: no root, no cpio, no depmod needed."""

from __future__ import annotations

import lzma
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

__all__ = ["build"]

INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/shm /host
for m in /mods/*; do [ -e "$m" ] && { insmod "$m" || echo "insmod $m failed"; }; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro hostroot /host || echo "NO 9P"
while read -r d; do mkdir -p "/keep$d"; mount -o bind "/host$d" "/keep$d"; done < /kept
mount -t tmpfs tmp /host/tmp
while read -r d; do mkdir -p "/host$d"; mount -o bind "/keep$d" "/host$d"; done < /kept
for d in proc sys dev; do mount -o bind /$d /host/$d; done
mount -t tmpfs run /host/run; mkdir -m 1777 /host/run/lock
ulimit -l unlimited
cp /run.sh /host/tmp/run.sh
mkdir -p /host/tmp/late; mount -o bind /late /host/tmp/late
chroot /host /bin/sh /tmp/run.sh; echo "GUEST RC=$?"
poweroff -f
"""


class _Cpio:
    """The "newc" format (Linux Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._data, self._inode, self._names = bytearray(), 1, set[str]()

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        if name in self._names:
            return
        parent = name.rpartition("/")[0]
        if parent:
            self.add(parent, stat.S_IFDIR | 0o755)
        self._names.add(name)
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._inode += 1
        self._data += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._data += b"\0" * (-len(self._data) % 4) + data
        self._data += b"\0" * (-len(self._data) % 4)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._data)


def _depends(module: bytes) -> list[str]:
    """The ``depends=`` entry of a module's .modinfo section."""
    offset, = struct.unpack_from("<Q", module, 0x28)
    size, count, names = struct.unpack_from("<HHH", module, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", module, offset + i * size) for i in range(count)]
    strings = sections[names][4]
    for section in sections:
        start = strings + section[0]
        if module[start:module.index(b"\0", start)] == b".modinfo":
            for entry in module[section[4]:section[4] + section[5]].split(b"\0"):
                if entry.startswith(b"depends="):
                    return [name for name in entry[8:].decode().split(",") if name]
    return []


def _modules(tree: Path, wanted: Iterable[str], instead: Iterable[Path] = ()) -> list[tuple[str, bytes]]:
    """(name, contents) of modules and what they depend on, in loading order; built-in ones are passed over."""
    files = {re.sub(r"\.ko(\.xz)?$", "", p.name).replace("-", "_"): p for p in (*tree.rglob("*.ko*"), *instead)}
    ordered: dict[str, bytes] = {}

    def need(name: str) -> None:
        name = name.replace("-", "_")
        if name in ordered or name not in files:
            return
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        for other in _depends(data):
            need(other)
        ordered[name] = data
    for name in wanted:
        need(name)
    return list(ordered.items())


def build(busybox: Path, script: str, modules: Path | None = None, wanted: Iterable[str] = (),
          kept: Iterable[Path] = (), late: Iterable[str] = (),
          instead: Iterable[Path] = ()) -> bytes:
    """The image. ``script`` is run by the host's /bin/sh, inside the host's root file system (read-only, over 9p).

    The guest has a /tmp of its own; of the host's, it sees the directories ``kept``. Modules ``wanted`` are loaded;
    those that only ``late`` ones need lie in the script's /tmp/late, numbered in the order in which they load. Files of
    ``instead`` take the place of the kernel's modules of their names.
    """
    image = _Cpio()
    for name in ("dev", "proc", "sys", "tmp", "run", "host", "late"):
        image.add(name, stat.S_IFDIR | 0o755)
    image.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    image.add("dev/null", stat.S_IFCHR | 0o666, device=(1, 3))
    image.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    early = _modules(modules, wanted) if modules else []
    for number, (name, data) in enumerate(early):
        image.add(f"mods/{number:03}_{name}.ko", stat.S_IFREG | 0o644, data)
    loaded = {name for name, _ in early}
    for number, (name, data) in enumerate(_modules(modules, late, instead) if modules else []):
        if name not in loaded:
            image.add(f"late/{number:03}_{name}.ko", stat.S_IFREG | 0o644, data)
    image.add("kept", stat.S_IFREG | 0o644, "".join(f"{path}\n" for path in kept).encode())
    image.add("run.sh", stat.S_IFREG | 0o755, script.encode())
    image.add("init", stat.S_IFREG | 0o755, INIT.encode())
    return image.finish()
