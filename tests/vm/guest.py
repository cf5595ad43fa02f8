"""A virtual machine for one test run: QEMU without KVM, a Debian kernel, the host's Python inside.

Kernels: ``debian`` is the stock kernel of Debian's package (type 1 VFIO, sysfs); ``hal`` is one with iommufd and
no-IOMMU, which no Debian kernel has: ``AMDRV_VM_KERNEL`` names its bzImage, or a folder ``shared/vm`` beside the
checkout holds one, or ``build_kernel.py`` (``make vm-kernel``) built it.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import build_kernel
import initramfs
import pytest
import table

__all__ = ["Guest", "Kernel", "Missing", "Result", "debian_kernel", "hal_kernel", "required", "unavailable"]

ROOT = Path(__file__).parents[2]
CACHE = build_kernel.CACHE
STOCK_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "vfio-pci", "vfio_iommu_type1", "nvme")
BOOT_TRIES = 3
TIMEOUT = 900        # seconds; a guest takes one or two minutes where the machine is its own


class Missing(Exception):
    """A program or package that the virtual machine needs is not there; the message says which."""


@dataclass(frozen=True)
class Kernel:
    image: Path
    modules: Path | None


@dataclass(frozen=True)
class Result:
    """What the guest printed, the script's exit status, and how many starts it took."""

    output: str
    status: int
    tries: int
    kernel: str = "?"
    seconds: float = 0.0

    @property
    def passed(self) -> int:
        """How many tests pytest passed in the guest."""
        return sum(int(n) for n in re.findall(r"^(?:\S+ )?(\d+) passed", self.output, re.M))


def debian_kernel() -> Kernel:
    """Debian's own kernel for this suite, downloaded once. :raises Missing:"""
    where = CACHE / "debian"
    if not list(where.glob("boot/vmlinuz-*")):
        if shutil.which("apt-get") is None:
            raise Missing("the stock kernel comes from Debian's packages: apt-get is not here")
        depends = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True).stdout
        found = re.search(r"Depends: (linux-image-\S+)", depends)
        if found is None:
            raise Missing("apt-cache knows no linux-image-amd64: run apt-get update")
        where.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(["apt-get", "download", "-qq", found[1]], cwd=where, capture_output=True, text=True)
        packages = list(where.glob("*.deb"))
        if done.returncode or not packages:
            raise Missing(f"apt-get download {found[1]}: {done.stderr.strip()}")
        subprocess.run(["dpkg", "-x", str(packages[0]), str(where)], check=True)
        packages[0].unlink()
    image, = where.glob("boot/vmlinuz-*")
    modules, = where.glob("lib/modules/*")
    return Kernel(image, modules)


def hal_kernel() -> Kernel:
    """The kernel with iommufd and no-IOMMU. :raises Missing:"""
    for path in (os.environ.get("AMDRV_VM_KERNEL"), ROOT.parent / "shared" / "vm" / "bz-6.12-hal",
                 build_kernel.built()):
        if path and Path(path).is_file():
            return Kernel(Path(path), None)
    raise Missing("iommufd and no-IOMMU are in no Debian kernel: make vm-kernel builds one that has them (10 to 20 "
                  "minutes, once), or AMDRV_VM_KERNEL names a bzImage")


def required() -> bool:
    """Is everything expected to be here? ``AMDRV_VM_REQUIRED=1`` makes what is missing a failure: CI's way."""
    return os.environ.get("AMDRV_VM_REQUIRED", "0") not in ("", "0")


def unavailable(missing: Missing) -> NoReturn:
    """Skip the test, or fail it where everything is :func:`required`."""
    if required():
        pytest.fail(str(missing))
    pytest.skip(str(missing))


class Guest:
    """``Guest(kernel, devices=[...]).run("python -m pytest ...")``."""

    def __init__(self, kernel: Kernel, *, devices: Sequence[str] = (), append: str = "", memory: str = "1G",
                 machine: str = "kernel-irqchip=split", trace: str | None = None, qemu: str | None = None,
                 modules: Sequence[str] = STOCK_MODULES, late: Sequence[str] = (),
                 instead: Sequence[Path] = ()) -> None:
        self._modules, self._late, self._instead = modules, late, instead
        self._kernel, self._devices, self._append, self._memory = kernel, devices, append, memory
        self._machine, self._trace = machine, trace
        self._qemu = qemu or os.environ.get("AMDRV_QEMU") or shutil.which("qemu-system-x86_64")
        if self._qemu is None:
            raise Missing("qemu-system-x86_64 is not here: apt-get install --no-install-recommends qemu-system-x86")
        busybox = shutil.which("busybox")
        if busybox is None:
            raise Missing("a static busybox is not here: apt-get install busybox-static")
        self._busybox = Path(busybox)

    def run(self, command: str, directory: Path, *, environment: dict[str, str] | None = None,
            timeout: float = TIMEOUT) -> Result:
        """Run a shell command in the guest, in the repository. A guest that does not boot is started again."""
        exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in
                          {"PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", "HOME": "/tmp", "PATH": os.environ["PATH"],
                           "PYTHON": sys.executable, **(environment or {})}.items())
        script = f"{exports}cd {shlex.quote(str(ROOT))}\necho GUEST UP $(uname -r)\n{command}\n"
        image = directory / "initramfs.img"
        kept = [path for path in {ROOT, Path(sys.prefix), Path(sys.base_prefix)} if path.is_relative_to("/tmp")]
        image.write_bytes(initramfs.build(self._busybox, script, self._kernel.modules, self._modules, sorted(kept),
                                            self._late, self._instead))
        arguments = [self._qemu, "-machine", f"q35,accel=tcg,{self._machine}", "-cpu", "max", "-m", self._memory,
                     "-smp", "1", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
                     "-no-reboot",
                     "-kernel", str(self._kernel.image), "-initrd", str(image), "-append",
                     f"console=ttyS0 quiet panic=-1 oops=panic no_timer_check {self._append}",
                     "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
                     "-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot"]
        for device in self._devices:
            arguments += shlex.split(device)
        if self._trace:
            arguments += ["-trace", self._trace, "-D", str(directory / "trace.log")]
        output, begun = "", time.monotonic()
        for number in range(1, BOOT_TRIES + 1):
            console = directory / f"console-{number}.log"      # there also for whoever waits no longer
            with console.open("wb") as file:
                try:
                    subprocess.run([str(a) for a in arguments], stdin=subprocess.DEVNULL, stdout=file,
                                   stderr=subprocess.STDOUT, timeout=timeout)
                except subprocess.TimeoutExpired:
                    file.write(b"\nTIMEOUT\n")
            output = console.read_bytes().decode(errors="replace").replace("\r", "")
            up = re.search(r"GUEST UP (\S*)", output)
            status = re.search(r"GUEST RC=(\d+)", output)
            if up:              # it booted: what happened then is the test's result, not the machine's
                return Result(output, int(status[1]) if status else -1, number, up[1], time.monotonic() - begun)
        raise RuntimeError(f"the guest did not boot in {BOOT_TRIES} tries:\n{output[-3000:]}")

    def qemu_version(self) -> str:
        done = subprocess.run([str(self._qemu), "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"version ([\d.]+)", done.stdout)
        return found[1] if found else "?"

    def record(self, property: Callable[[str, object], None], result: Result, what: str, iommu: str, modes: str,
               outcome: str) -> None:
        """A row of the table of what ran where. :param property: pytest's ``record_property``."""
        property(table.PROPERTY, asdict(table.Row(what, result.kernel, iommu, modes, self.qemu_version(), outcome,
                                                  result.tries, result.seconds)))
