"""Debian's own amdgpu on the mock card: a guest with the stock kernel 7.3 of trixie-backports and AMD's firmware.

    python tests/vm/amdgpu_machine.py -c 'amdgpu_load; dmesg | tail' --strip    # one command in the guest
    python tests/vm/amdgpu_machine.py script.sh --vram 1G --log /tmp/log        # a script of the host's /bin/sh

The script runs in the guest, in this checkout, seen read-only over 9p; $PYTHON is the host's, /tmp is the guest's own.
Beside the host's programs it has:

    amdgpu_load [OPTION=VALUE...]   loads amdgpu and what it depends on; amdgpu alone where those are loaded already
    amdgpu_unload                   unloads amdgpu
    dmesg, insmod, rmmod, lspci     busybox's
    /tmp/box/NAME                   all of busybox's, which need no file of the host: after a suspend 9p is dead
    $CARD, $DEBUG                   the card's folders in sysfs and in debugfs

From Python: ``with AmdgpuMachine() as machine: result = machine.run(script, tmp_path)``; ``machine.board`` is the card,
whose log says which rules were broken. With ``AMDRV_MOCK_TRACE=file`` every access of the driver is recorded.

Kernel, modules and firmware are Debian's packages, unpacked beside the caches on first use; nothing is installed, and
nothing in them changed.
"""

from __future__ import annotations

import argparse
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from debian_backports import Apt
from door import socket_path
from guest import TIMEOUT, Guest, Kernel, Missing, Result
from modern_qemu import modern_qemu

import mock
from mock.board import Board
from mock.vfio_user import Server

__all__ = ["CACHE", "AmdgpuMachine", "errors", "packages"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "amdrv" / "amdgpu"
OLDEST_MAPPER = 0x47        # first version of MES's firmware that maps the kernel's rings
MODULES = ("virtio_pci", "9pnet_virtio", "9p")
PRELUDE = """
mount -t debugfs debug /sys/kernel/debug
mkdir /tmp/bin /tmp/box; cp {busybox} /tmp/bin/busybox
/tmp/bin/busybox --install -s /tmp/box
for name in dmesg insmod rmmod lspci; do ln -s busybox /tmp/bin/$name; done
export PATH=/tmp/bin:$PATH:/sbin:/usr/sbin
CARD=$(grep -lx 0x1002 /sys/bus/pci/devices/*/vendor | head -1); export CARD=${{CARD%/vendor}}
export DEBUG=/sys/kernel/debug/dri/${{CARD##*/}}
amdgpu_load() {{
    for module in /tmp/late/*.ko; do
        name=${{module##*/[0-9][0-9][0-9]_}}; name=${{name%.ko}}
        if [ "$name" = amdgpu ]; then insmod $module "$@" || return 1
        elif [ ! -d /sys/module/$name ]; then insmod $module || return 1; fi
    done
}}
amdgpu_unload() {{ rmmod amdgpu; }}
"""


def packages() -> tuple[Kernel, Path]:
    """(kernel and its modules, folder of firmware), fetched once. :raises Missing:"""
    root = CACHE / "root"
    done = root / "done"
    if not done.exists():
        shutil.rmtree(root, ignore_errors=True)
        apt = Apt(CACHE / "apt", "main non-free-firmware")
        image = next((name for name in apt.depends("linux-image-amd64") if name.startswith("linux-image-")), "")
        parts = [name for name in apt.depends(image) if name.startswith(("linux-binary-", "linux-modules-"))]
        apt.unpack([*parts, "firmware-amd-graphics"], root)
        done.touch()
    modules, = (root / "usr/lib/modules").iterdir()
    return Kernel(modules / "vmlinuz", modules), root / "usr/lib/firmware"


def stripped(kernel: Kernel) -> Path:
    """amdgpu without its signature and the symbols that nothing in it needs. The code is the same, but it loads in half
    the time: while it does, the kernel's ftrace looks up each of its functions among all its symbols, one by one
    (Linux 7.3, ftrace.c, ftrace_module_enable), and the emulated processor takes its time. :raises Missing:"""
    assert kernel.modules is not None
    small = CACHE / f"stripped-{kernel.modules.name}" / "amdgpu.ko"
    if not small.exists():
        if shutil.which("strip") is None:
            raise Missing("strip is not here: apt-get install binutils")
        small.parent.mkdir(parents=True, exist_ok=True)
        whole, partial = small.with_suffix(".whole"), small.with_suffix(".partial")
        whole.write_bytes(lzma.decompress(next(kernel.modules.rglob("amdgpu.ko.xz")).read_bytes()))
        subprocess.run(["strip", "--strip-unneeded", "-o", str(partial), str(whole)], check=True)
        whole.unlink()
        partial.rename(small)
    return small


def errors(log: str) -> list[str]:
    """Lines of a raw kernel log (``dmesg -r``) of level error or worse, and traces of the kernel's own warnings."""
    return [line for line in log.splitlines()
            if re.match(r"<(\d+)>", line) and (int(line[1:line.index(">")]) & 7 <= 3 or "WARNING: CPU" in line
                                               or "*ERROR*" in line or "Call Trace" in line)]


class AmdgpuMachine:
    """A card, its server, and guests that see it one after the other. :raises Missing: something is not here."""

    def __init__(self, gpu: mock.Gpu | None = None, *, memory: str = "2G", append: str = "",
                 strip: bool = False, kiq: bool = False) -> None:
        """:param kiq: the scheduler's firmware says that it is too old to map graphics and compute rings, which is the
        only way in which Linux 7.3 still lets the KIQ map them (mes_v11_0.c, mes_v11_0_kiq_hw_init)."""
        kernel, firmware = packages()
        self._machine = mock.Machine([gpu or mock.Gpu("gfx1100", vram="256M")])
        self.board: Board = self._machine.gpus[0]
        if kiq:
            self.board.mes._version = lambda pipe: 14 << 12 | OLDEST_MAPPER - 1
        path = socket_path("amdgpu")
        self._server = Server(self._machine, path)
        self._server.start()
        card = f'-device \'{{"driver":"vfio-user-pci","bus":"rp0","socket":{{"type":"unix","path":"{path}"}}}}\''
        self._busybox = shutil.which("busybox")
        self._guest = Guest(
            kernel, memory=memory, qemu=modern_qemu(), machine="kernel-irqchip=split,memory-backend=ram",
            append=f"firmware_class.path=/host{firmware} {append}", modules=MODULES, late=["amdgpu"],
            instead=[stripped(kernel)] if strip else [],
            devices=[f"-object memory-backend-memfd,id=ram,size={memory},share=on",
                     "-device pcie-root-port,id=rp0,slot=1,pref64-reserve=4G", card])

    def run(self, script: str, directory: Path, *, environment: dict[str, str] | None = None,
            timeout: float = TIMEOUT) -> Result:
        """Run a script in a guest that is started for it; the console's log stays in ``directory``."""
        return self._guest.run(PRELUDE.format(busybox=self._busybox) + script, directory, environment=environment,
                               timeout=timeout)

    @property
    def guest(self) -> Guest:
        return self._guest

    def close(self) -> None:
        self._server.close()
        self._machine.close()

    def __enter__(self) -> AmdgpuMachine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def main() -> int:
    parser = argparse.ArgumentParser(description="Boot Debian's amdgpu on the mock card and run a script there.")
    parser.add_argument("script", nargs="?", type=Path, help="a shell script (default: load amdgpu, show its log)")
    parser.add_argument("-c", dest="command", metavar="COMMAND", help="a command instead")
    parser.add_argument("--gpu", default="gfx1100:vram=256M", help="as in AMDRV_MOCK (default: %(default)s)")
    parser.add_argument("--memory", default="2G", help="of the guest (default: %(default)s)")
    parser.add_argument("--append", default="", help="words for the kernel's command line")
    parser.add_argument("--strip", action="store_true", help="amdgpu without symbols and signature: loads faster")
    parser.add_argument("--kiq", action="store_true", help="the KIQ maps the rings, not the scheduler")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="S", help="seconds (default: %(default)s)")
    parser.add_argument("--log", type=Path, metavar="DIR", help="where the console's log goes")
    given = parser.parse_args()
    script = given.command or (given.script.read_text() if given.script else "amdgpu_load; dmesg | grep -i amdgpu")
    from mock.machine import parse
    try:
        with AmdgpuMachine(parse(given.gpu)[0], memory=given.memory, append=given.append,
                           strip=given.strip, kiq=given.kiq) as machine:
            folder = given.log or Path(tempfile.mkdtemp(prefix="amdgpu-"))
            folder.mkdir(parents=True, exist_ok=True)
            result = machine.run(script, folder, timeout=given.timeout)
            print(result.output[max(result.output.find("GUEST UP"), 0):])
            print(f"{result.seconds:.0f} s; console: {folder}; the card's log: {len(machine.board.log)} notes")
            for note in machine.board.log:
                print(f"  {note.rule}: {note.text}")
            return result.status
    except (Missing, ValueError) as error:
        print(f"amdgpu_machine: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
