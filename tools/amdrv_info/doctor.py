"""``amdrv-info doctor``: what on this machine keeps a card from being driven from user space, and what mends it.

Each check looks at one thing and says what it saw, what that means, and the exact command that changes it. Nothing is
changed here. The checks are what users of such drivers stumble over most: permissions reported as something else, IOMMU
groups that are not viable (the card's own audio function), small BARs behind a resizable-BAR capability that says
"on", firmware, locked memory, lockdown, slow links, atomics, ACS.

Sources: Linux Documentation/driver-api/vfio.rst, ABI/testing/sysfs-bus-pci; PCI Express Base Specification 4.0, 7.5.3.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from amdrv.errors import HalError
from amdrv.hal import AMD_VENDOR_ID, PciFunction
from amdrv.hal.pinned import describe
from amdrv.hal.vfio import VfioHal

__all__ = ["Finding", "Host", "examine"]

State = Literal["ok", "note", "bad"]
MIB = 1 << 20
SMALL_BAR = 256 * MIB
ENOUGH_LOCKED = 1 << 30
CLASS_BRIDGE, CLASS_AUDIO = 0x06, 0x0403
CAP_EXPRESS, EXT_ACS = 0x10, 0x0D
DEVCAP2, ATOMIC_ROUTING, ATOMIC_COMPLETER_32, ATOMIC_COMPLETER_64 = 0x24, 1 << 6, 1 << 7, 1 << 8
ACS_CONTROL, ACS_REDIRECT = 6, 1 << 2 | 1 << 3
FIRMWARE = ("psp_13_0_0_sos.bin", "smu_13_0_0.bin", "gc_11_0_0_mec.bin", "gc_11_0_0_rlc.bin", "gc_11_0_0_imu.bin",
            "sdma_6_0_0.bin")


@dataclass(frozen=True)
class Finding:
    """One check's answer. ``fix`` is a command, or empty."""

    check: str
    state: State
    evidence: str
    cause: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Host:
    """The machine as files. ``root`` lets a test bring a tree of its own."""

    root: Path = Path("/")

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        try:
            return self.path(name).read_text(errors="replace").strip()
        except OSError:
            return None

    def functions(self) -> list[PciFunction]:
        folder = self.path("/sys/bus/pci/devices")
        return [describe(p) for p in sorted(folder.iterdir())] if folder.is_dir() else []

    def device(self, address: str) -> Path:
        return self.path(f"/sys/bus/pci/devices/{address}")

    def config(self, address: str) -> bytes:
        try:
            return (self.device(address) / "config").read_bytes()
        except OSError:
            return b""

    def may_use(self, name: str) -> bool:
        return os.access(self.path(name), os.R_OK | os.W_OK)


def examine(host: Host, firmware_directories: Sequence[Path] = (), *, locked_limit: int | None = None) -> list[Finding]:
    """All checks, machine first, then each card.

    :param locked_limit: bytes that this user may lock; default: asked of the system.
    """
    cards = [f for f in host.functions() if f.vendor == AMD_VENDOR_ID and f.is_display]
    found = [_cards(cards), _iommu(host), _lockdown(host), _locked(locked_limit), _hugepages(host),
             _firmware(host, firmware_directories)]
    if cards:
        found.append(_vfio_container(host))
    for card in cards:
        for check in (_driver, _kfd, _group, _device_file, _ways, _bar, _link, _atomics, _peers, _reset):
            found += check(host, card)
    return found


# -- the machine -------------------------------------------------------------------------------------------------

def _cards(cards: Sequence[PciFunction]) -> Finding:
    if not cards:
        return Finding("card", "bad", "no AMD display function on the PCI bus",
                       "the card is not there, not powered, or not passed through to this virtual machine",
                       "export AMDRV_HAL=mock    # the software card needs none")
    return Finding("card", "ok", ", ".join(f"{c.address} ({c.vendor:04x}:{c.device:04x})" for c in cards))


def _iommu(host: Host) -> Finding:
    groups = host.path("/sys/kernel/iommu_groups")
    count = len(list(groups.iterdir())) if groups.is_dir() else 0
    command_line = host.text("/proc/cmdline") or ""
    words = [w for w in command_line.split() if "iommu" in w]
    shown = f"{count} IOMMU groups; kernel command line: {' '.join(words) or 'nothing about the IOMMU'}"
    off = [w for w in words if w in ("intel_iommu=off", "amd_iommu=off", "iommu=off")]
    if off and not count:
        return Finding("IOMMU", "bad", shown, f"{' '.join(off)} switches the IOMMU off",
                       f"sed -i 's/ *{off[0]}//' /etc/default/grub && update-grub && reboot")
    if count:
        if any(w.startswith("iommu=") and "pt" in w for w in words):
            return Finding("IOMMU", "ok", shown)
        return Finding("IOMMU", "ok", shown,
                       "VFIO works; the sysfs way is blocked by a translating IOMMU unless iommu=pt")
    option = "amd_iommu=on" if "AuthenticAMD" in (host.text("/proc/cpuinfo") or "") else "intel_iommu=on"
    return Finding("IOMMU", "bad", shown,
                   "no IOMMU is active: VFIO with protection is not possible (sysfs and no-IOMMU are)",
                   f"sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{option} iommu=pt /' /etc/default/grub && update-grub && reboot"
                   "    # and switch VT-d or AMD-Vi on in the firmware")


def _lockdown(host: Host) -> Finding:
    state = host.text("/sys/kernel/security/lockdown")
    if state is None:
        return Finding("lockdown", "ok", "this kernel has no lockdown")
    if "[none]" in state:
        return Finding("lockdown", "ok", state)
    return Finding("lockdown", "note", state,
                   "kernel lockdown (secure boot) closes BARs in sysfs, even to root; VFIO works",
                   "export AMDRV_HAL=vfio")


def _locked(limit: int | None) -> Finding:
    if limit is None:
        import resource
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        limit = -1 if limit == resource.RLIM_INFINITY else limit
    shown = "unlimited" if limit < 0 else f"{limit / MIB:g} MiB"
    if 0 <= limit < ENOUGH_LOCKED:
        return Finding("locked memory", "bad", f"limit {shown}", "DMA memory is locked; mappings will fail with ENOMEM",
                       "ulimit -l unlimited    # for good: '* - memlock unlimited' in /etc/security/limits.conf")
    return Finding("locked memory", "ok", f"limit {shown}")


def _hugepages(host: Host) -> Finding:
    values = dict(line.split(":", 1) for line in (host.text("/proc/meminfo") or "").splitlines() if ":" in line)
    free = int(values.get("HugePages_Free", "0").split()[0])
    if free >= 16:
        return Finding("huge pages", "ok", f"{free} free")
    return Finding("huge pages", "note", f"{free} free", "without an IOMMU, contiguous and unmovable memory comes from "
                   "huge pages", "echo 64 > /proc/sys/vm/nr_hugepages")


def _firmware(host: Host, directories: Sequence[Path]) -> Finding:
    folders = [*directories, host.path("/lib/firmware/amdgpu")]
    missing = [name for name in FIRMWARE
               if not any((folder / (name + end)).exists() for folder in folders for end in ("", ".xz", ".zst"))]
    where = ", ".join(str(f) for f in folders)
    if missing:
        return Finding("firmware", "bad", f"missing in {where}: {', '.join(missing)}",
                       "the card cannot boot without AMD's firmware (gfx1100's names; other chips have others)",
                       "apt-get install firmware-amd-graphics    # Debian, non-free-firmware; or set AMDRV_FIRMWARE")
    return Finding("firmware", "ok", f"found in {where}")


def _vfio_container(host: Host) -> Finding:
    path = "/dev/vfio/vfio"
    if not host.path(path).exists():
        return Finding("VFIO", "bad", f"{path} is not there", "the vfio modules are not loaded",
                       "modprobe vfio-pci")
    if not host.may_use(path):
        return Finding("VFIO", "bad", f"{path}: no permission for this user", "VFIO's container needs read and write",
                       f"chmod 0666 {path}")
    return Finding("VFIO", "ok", f"{path} can be opened" + (", iommufd too" if host.may_use("/dev/iommu") else ""))


# -- one card ----------------------------------------------------------------------------------------------------

def _driver(host: Host, card: PciFunction) -> Iterator[Finding]:
    name = f"{card.address} driver"
    if card.driver == "vfio-pci":
        yield Finding(name, "ok", "vfio-pci")
    elif card.driver is None:
        yield Finding(name, "note", "no driver", "the sysfs way can take it; VFIO needs vfio-pci",
                      f"amdrv-info bind {card.address}")
    else:
        yield Finding(name, "bad", card.driver, f"{card.driver} drives the card; two drivers cannot",
                      f"amdrv-info bind {card.address}    # undone by amdrv-info unbind {card.address}")


def _kfd(host: Host, card: PciFunction) -> Iterator[Finding]:
    """A card that its kernel driver keeps can still compute: ``hcq.open("KFD")``."""
    if card.driver != "amdgpu":
        return
    name = f"{card.address} KFD"
    if not host.path("/sys/class/kfd/kfd/topology").is_dir():
        yield Finding(name, "note", "no /sys/class/kfd: this amdgpu has no KFD",
                      "hcq.open('KFD') would use the card where it is; this kernel was built without CONFIG_HSA_AMD, "
                      "or amdgpu refused the card (dmesg says why)", "dmesg | grep -i -e amdgpu -e kfd")
        return
    folder = host.device(card.address) / "drm"
    nodes = sorted(each.name for each in folder.glob("renderD*")) if folder.is_dir() else []
    files = ["/dev/kfd", *(f"/dev/dri/{node}" for node in nodes)]
    absent = [path for path in files if not host.path(path).exists()]
    closed = [path for path in files if path not in absent and not host.may_use(path)]
    if absent or not nodes:
        yield Finding(name, "bad", f"not there: {', '.join(absent) or 'a render node'}",
                      "hcq.open('KFD') needs both; a container has only the devices that it is given",
                      "docker run --device=/dev/kfd --device=/dev/dri ...")
    elif closed:
        yield Finding(name, "bad", f"{', '.join(closed)}: no permission for this user",
                      "hcq.open('KFD') needs read and write; the groups are render and video",
                      "usermod -aG render,video $USER    # and log in again")
    else:
        yield Finding(name, "ok", f"{', '.join(files)} can be opened: hcq.open('KFD') uses the card where it is")


def _members(host: Host, card: PciFunction) -> list[PciFunction]:
    folder = host.device(card.address) / "iommu_group" / "devices"
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return [describe(host.device(n)) for n in names]


def _group(host: Host, card: PciFunction) -> Iterator[Finding]:
    members = _members(host, card)
    if not members:
        return
    shown = ", ".join(f"{m.address} ({m.driver or 'no driver'})" for m in members)
    # Bridges stay with their own driver; everything else in the group must be vfio-pci's or nobody's.
    foreign = [m for m in members if m.driver not in (None, "vfio-pci") and m.class_code >> 16 != CLASS_BRIDGE]
    if foreign:
        audio = any(m.class_code >> 8 == CLASS_AUDIO for m in foreign)
        yield Finding(f"{card.address} IOMMU group", "bad", shown,
                      "the group is not viable: " + ", ".join(m.address for m in foreign) + " belongs to another driver"
                      + (" (the card's own audio function)" if audio else ""),
                      "; ".join(f"amdrv-info bind {m.address}" for m in foreign))
    else:
        yield Finding(f"{card.address} IOMMU group", "ok", shown)


def _device_file(host: Host, card: PciFunction) -> Iterator[Finding]:
    """The group's file, and where there is iommufd the device's own."""
    link = host.device(card.address) / "iommu_group"
    if card.driver != "vfio-pci" or not link.exists():
        return
    name, group = f"{card.address} permission", link.resolve().name
    paths = [p for p in (f"/dev/vfio/{group}", f"/dev/vfio/noiommu-{group}") if host.path(p).exists()]
    if not paths:
        yield Finding(name, "bad", f"/dev/vfio/{group} is not there", "the group has no VFIO device yet",
                      f"amdrv-info bind {card.address}")
        return
    own = host.device(card.address) / "vfio-dev"
    if own.is_dir() and host.path("/dev/iommu").exists():
        paths += [f"/dev/vfio/devices/{p.name}" for p in sorted(own.iterdir())] + ["/dev/iommu"]
    denied = [p for p in paths if not host.may_use(p)]
    if denied:
        yield Finding(name, "bad" if paths[0] in denied else "note",
                      f"{', '.join(denied)}: no permission for this user", "these files are root's until they are "
                      "given to somebody", f"chown $USER {' '.join(denied)}    # as root, with your name")
    else:
        yield Finding(name, "ok", ", ".join(paths))


def _ways(host: Host, card: PciFunction) -> Iterator[Finding]:
    """Which HAL ``AMDRV_HAL=auto`` takes for this card, and what else there is."""
    name = f"{card.address} way"
    if card.driver == "vfio-pci":
        modes = VfioHal(paths=lambda: [host.device(card.address)], dev=host.path("/dev")).available(
            host.device(card.address))
        if modes:
            others = f"; also {', '.join(f'vfio:{mode}' for mode in modes[1:])}" if modes[1:] else ""
            yield Finding(name, "ok", f"vfio:{modes[0]}, the best that is there{others}")
        else:
            yield Finding(name, "bad", "vfio-pci has the card, and VFIO offers no way to it", "no IOMMU translates for "
                          "it, and no-IOMMU mode is off (no Debian kernel has it)",
                          f"amdrv-info bind --driver none {card.address} && export AMDRV_HAL=sysfs")
    elif card.driver is None:
        yield Finding(name, "ok", "sysfs (root only; interrupts are polled)")


def _bar(host: Host, card: PciFunction) -> Iterator[Finding]:
    lines = (host.text(f"/sys/bus/pci/devices/{card.address}/resource") or "").splitlines()
    if not lines:
        return
    start, end, _ = (int(word, 16) for word in lines[0].split())
    size = end - start + 1 if end else 0
    sizes = host.text(f"/sys/bus/pci/devices/{card.address}/resource0_resize")
    possible = [1 << bit + 20 for bit in range(44) if int(sizes, 16) >> bit & 1] if sizes else []
    shown = f"BAR0 is {size // MIB} MiB" + (f"; it can be {', '.join(f'{p // MIB}' for p in possible)} MiB" if possible
                                            else "; it cannot be resized")
    name = f"{card.address} VRAM window"
    vram = host.text(f"/sys/bus/pci/devices/{card.address}/mem_info_vram_total") or ""     # amdgpu's word
    if size > SMALL_BAR or (vram.isdigit() and 0 < int(vram) <= size):
        yield Finding(name, "ok", shown)
    elif possible and max(possible) > size:
        free = "" if card.driver is None else f"amdrv-info bind --driver none {card.address} && "
        yield Finding(name, "bad", shown, "the window shows only a part of VRAM, whatever the capability says; the "
                      "firmware's \"Above 4G decoding\" and \"Resizable BAR\" must be on",
                      f"{free}amdrv-info resize {card.address}")
    else:
        yield Finding(name, "bad", shown, "the window shows only a part of VRAM, and this slot or firmware offers no "
                      "larger one", "")


@dataclass(frozen=True)
class _Link:
    """A function's PCI Express link; speeds in GT/s."""

    address: str
    speed: float
    width: int
    best_speed: float
    best_width: int

    @staticmethod
    def read(host: Host, address: str) -> _Link | None:
        words = [(host.text(f"/sys/bus/pci/devices/{address}/{name}") or "").split() or ["?"] for name in (
            "current_link_speed", "current_link_width", "max_link_speed", "max_link_width")]
        try:
            return _Link(address, float(words[0][0]), int(words[1][0]), float(words[2][0]), int(words[3][0]))
        except ValueError:                  # "Unknown", or no such file: this one has no link
            return None

    @property
    def rate(self) -> float:
        return self.speed * self.width

    @property
    def best_rate(self) -> float:
        return self.best_speed * self.best_width

    def __str__(self) -> str:
        return (f"{self.address}: {self.speed:g} GT/s x{self.width}, its best {self.best_speed:g} GT/s "
                f"x{self.best_width}")


def _link(host: Host, card: PciFunction) -> Iterator[Finding]:
    """Every link from the root port down: a Navi card has a switch of its own, behind which the link is always fast.

    The card's upstream port and the port above it are the ends of one link, a switch's two sides are not.
    """
    ends = [_Link.read(host, each) for each in reversed([*_upstream(host, card), card.address])]
    links = []
    for lower, upper in zip_longest(ends[::2], ends[1::2]):     # a link has two ends, and is no better than the worse
        links += [end if other is None else replace(end, best_speed=min(end.best_speed, other.best_speed),
                                                    best_width=min(end.best_width, other.best_width))
                  for end, other in ((upper, lower), (lower, upper)) if end is not None]
    links.reverse()                                             # from the root port down
    if not links:
        return
    name = f"{card.address} PCIe link"
    least = min(links, key=lambda link: link.rate)
    slow = [link for link in links if link.rate < link.best_rate]
    if slow:
        narrow = any(link.width < link.best_width for link in slow)
        yield Finding(name, "note", "; ".join(map(str, slow)),
                      "a narrow link: the slot has fewer lanes, the card sits badly, or a riser does" if narrow else
                      "a slow link: an idle card lowers its speed, and a bad riser keeps it low",
                      "" if narrow else f"echo on > /sys/bus/pci/devices/{card.address}/power/control")
    else:
        yield Finding(name, "ok", str(least))


def _capability(config: bytes, wanted: int) -> int | None:
    at, seen = (config[0x34] & ~3 if len(config) > 0x34 else 0), set[int]()
    while at and at not in seen and at + 2 <= len(config):
        seen.add(at)
        if config[at] == wanted:
            return at
        at = config[at + 1] & ~3
    return None


def _extended(config: bytes, wanted: int) -> int | None:
    at, seen = 0x100, set[int]()
    while at and at not in seen and at + 4 <= len(config):
        seen.add(at)
        header, = struct.unpack_from("<I", config, at)
        if header & 0xFFFF == wanted:
            return at
        at = header >> 20 & ~3
    return None


def _upstream(host: Host, card: PciFunction) -> list[str]:
    """The bridges from the root port down to the card."""
    parts = host.device(card.address).resolve().parts
    return [p for p in parts[:-1] if p.count(":") == 2 and "." in p]


def _atomics(host: Host, card: PciFunction) -> Iterator[Finding]:
    bridges = _upstream(host, card)
    if not bridges:
        return
    lacking = []
    for index, bridge in enumerate(bridges):
        config = host.config(bridge)
        at = _capability(config, CAP_EXPRESS)
        if at is None or at + DEVCAP2 + 4 > len(config):
            continue
        value, = struct.unpack_from("<I", config, at + DEVCAP2)
        wanted = ATOMIC_COMPLETER_32 | ATOMIC_COMPLETER_64 if index == 0 else ATOMIC_ROUTING
        if value & wanted != wanted:
            lacking.append(bridge)
    name = f"{card.address} atomics"
    if lacking:
        yield Finding(name, "note", f"not supported by {', '.join(lacking)}",
                      "PCIe AtomicOps to host memory will not arrive; kernels that use system-scope atomics on host "
                      "memory are wrong here. Another slot (one of the CPU's) may have them")
    else:
        yield Finding(name, "ok", f"supported on the way through {', '.join(bridges)}")


def _peers(host: Host, card: PciFunction) -> Iterator[Finding]:
    others = [f for f in host.functions() if f.vendor == AMD_VENDOR_ID and f.is_display and f.address != card.address]
    if not others:
        return
    redirecting = []
    for bridge in _upstream(host, card):
        config = host.config(bridge)
        at = _extended(config, EXT_ACS)
        if at is not None and at + ACS_CONTROL + 2 <= len(config) \
                and struct.unpack_from("<H", config, at + ACS_CONTROL)[0] & ACS_REDIRECT:
            redirecting.append(bridge)
    name = f"{card.address} peers"
    if redirecting:
        yield Finding(name, "note", f"ACS redirects requests at {', '.join(redirecting)}",
                      "copies between cards go up to the root complex and down again: right, but slower",
                      "; ".join(f"setpci -s {bridge} ECAP_ACS+6.w=0:000c" for bridge in redirecting)
                      + "    # until the next start; not where virtual machines rely on the isolation")
    else:
        yield Finding(name, "ok", "no ACS redirection on the way to the other cards")


def _reset(host: Host, card: PciFunction) -> Iterator[Finding]:
    methods = host.text(f"/sys/bus/pci/devices/{card.address}/reset_method")
    if methods:
        yield Finding(f"{card.address} reset", "ok", f"the kernel can reset it by: {methods}")
    else:
        yield Finding(f"{card.address} reset", "note", "the kernel knows no reset for it",
                      "a card that hangs past its own mode-1 reset needs a power cycle")


def document(findings: Sequence[Finding], schema: str) -> dict[str, object]:
    """The JSON form."""
    return {"schema": schema, "doctor": [asdict(f) for f in findings],
            "worst": max((f.state for f in findings), key=("ok", "note", "bad").index)}


def firmware_directories(environment: Callable[[str], str | None] = os.environ.get) -> list[Path]:
    named = environment("AMDRV_FIRMWARE")
    return [Path(named)] if named else []


def require_linux(host: Host) -> None:
    """:raises HalError: where there is no sysfs to look at."""
    if not host.path("/sys/bus/pci").is_dir():
        raise HalError("doctor looks at Linux's /sys/bus/pci, and there is none here; on this machine use "
                       "AMDRV_HAL=mock")
