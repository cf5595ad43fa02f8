"""What the kernel says about the machine's cards: /sys/class/kfd/kfd/topology (Linux, kfd_topology.c).

A node is a processor, the CPU's or a card's. Each has properties, memory banks, caches and links to other nodes, all of
them files with a name and a number a line.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from amdrv.errors import HalError, NoCardError
from amdrv.hal.kfd import Kernel

__all__ = ["Bank", "Cache", "Link", "Node", "TOPOLOGY", "read_topology"]

TOPOLOGY = "/sys/class/kfd/kfd/topology"
# kfd_crat.h, HSA_MEM_HEAP_TYPE_*: memory that the CPU sees through the BAR, and memory that it does not
HEAP_SYSTEM, HEAP_PUBLIC, HEAP_PRIVATE = 0, 1, 2
LINK_TYPES = {2: "PCIe", 11: "XGMI"}        # kfd_crat.h, CRAT_IOLINK_TYPE_*
LOOKS = 5                                   # at a topology that changes while it is read


@dataclass(frozen=True)
class Bank:
    """Memory of a node."""

    heap_type: int
    nbytes: int
    flags: int = 0
    width: int = 0              # bits
    clock_mhz: int = 0


@dataclass(frozen=True)
class Cache:
    level: int
    kilobytes: int
    line_bytes: int
    type: int                   # bits: 1 data, 2 instructions, 4 of a CPU, 8 of a card's processors


@dataclass(frozen=True)
class Link:
    """A way from a node to another; bandwidths in MB/s, 0 where the kernel does not know."""

    to: int
    type: int
    weight: int
    bandwidth: tuple[int, int] = (0, 0)
    peer: bool = False          # between two cards, through the CPU's root (p2p_links)

    def __str__(self) -> str:
        return f"{LINK_TYPES.get(self.type, f'type {self.type}')} to node {self.to}"


@dataclass(frozen=True)
class Node:
    """One processor. ``gpu_id`` is the kernel's number for a card, 0 for a CPU."""

    number: int
    gpu_id: int
    name: str
    properties: dict[str, int] = field(repr=False)
    banks: tuple[Bank, ...] = ()
    caches: tuple[Cache, ...] = ()
    links: tuple[Link, ...] = ()

    def __getitem__(self, name: str) -> int:
        """A property; 0 where this kernel does not tell it."""
        return self.properties.get(name, 0)

    @property
    def is_card(self) -> bool:
        return self.gpu_id != 0

    @property
    def target(self) -> tuple[int, int, int]:
        """Version of the graphics core: (11, 0, 0)."""
        version = self["gfx_target_version"]
        return version // 10000, version // 100 % 100, version % 100

    @property
    def arch(self) -> str:
        """As LLVM names it: gfx1100."""
        major, minor, step = self.target
        return f"gfx{major}{minor:x}{step:x}"

    @property
    def compute_units(self) -> int:
        return self["simd_count"] // (self["simd_per_cu"] or 1)

    @property
    def vram_bytes(self) -> int:
        return sum(bank.nbytes for bank in self.banks if bank.heap_type in (HEAP_PUBLIC, HEAP_PRIVATE))

    @property
    def large_bar(self) -> bool:
        """Does the CPU see all of the card's memory?"""
        return any(bank.heap_type == HEAP_PUBLIC for bank in self.banks) \
            and not any(bank.heap_type == HEAP_PRIVATE for bank in self.banks)

    @property
    def pci_address(self) -> str:
        location = self["location_id"]      # kfd_topology.c: pci_dev_id
        return f"{self['domain']:04x}:{location >> 8 & 0xff:02x}:{location >> 3 & 0x1f:02x}.{location & 7}"


def _pairs(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().lstrip("-").isdigit():
            found[name] = int(value)
    return found


def _number(kernel: Kernel, path: str) -> int:
    return int(kernel.text(path).strip() or 0)


def _each(kernel: Kernel, folder: str) -> list[dict[str, int]]:
    """The properties of the numbered folders in a folder; none where this kernel has no such folder."""
    try:
        names = sorted((name for name in kernel.names(folder) if name.isdigit()), key=int)
    except FileNotFoundError:
        return []
    return [_pairs(kernel.text(f"{folder}/{name}/properties")) for name in names]


def _links(kernel: Kernel, folder: str, peer: bool) -> list[Link]:
    return [Link(each.get("node_to", 0), each.get("type", 0), each.get("weight", 0),
                 (each.get("min_bandwidth", 0), each.get("max_bandwidth", 0)), peer)
            for each in _each(kernel, folder)]


def _node(kernel: Kernel, number: int) -> Node | None:
    folder = f"{TOPOLOGY}/nodes/{number}"
    try:
        gpu_id = _number(kernel, f"{folder}/gpu_id")
        properties = _pairs(kernel.text(f"{folder}/properties"))
        name = kernel.text(f"{folder}/name").strip()
    except PermissionError:         # a card that this process's control group may not use
        return None
    banks = tuple(Bank(each.get("heap_type", 0), each.get("size_in_bytes", 0), each.get("flags", 0),
                       each.get("width", 0), each.get("mem_clk_max", 0))
                  for each in _each(kernel, f"{folder}/mem_banks"))
    caches = tuple(Cache(each.get("level", 0), each.get("size", 0), each.get("cache_line_size", 0),
                         each.get("type", 0)) for each in _each(kernel, f"{folder}/caches"))
    links = _links(kernel, f"{folder}/io_links", False) + _links(kernel, f"{folder}/p2p_links", True)
    return Node(number, gpu_id, name, properties, banks, caches, tuple(links))


def read_topology(kernel: Kernel) -> list[Node]:
    """Every node that this process may see, in the kernel's order.

    :raises NoCardError: the kernel has no KFD, or no card in it.
    :raises HalError: the files cannot be read, or never stand still.
    """
    try:
        for _ in range(LOOKS):
            generation = _number(kernel, f"{TOPOLOGY}/generation_id")
            numbers = sorted(int(name) for name in kernel.names(f"{TOPOLOGY}/nodes"))
            nodes = [node for number in numbers if (node := _node(kernel, number)) is not None]
            if _number(kernel, f"{TOPOLOGY}/generation_id") == generation:
                return nodes
    except FileNotFoundError as error:
        raise NoCardError(f"there is no {TOPOLOGY}: the kernel's amdgpu driver is not loaded, was built without "
                          "CONFIG_HSA_AMD, or has no card; look at `dmesg | grep -i -e amdgpu -e kfd`, or bind the "
                          "card to vfio-pci and open AM. AMDRV_HAL=mock gives a software card") from error
    except OSError as error:
        what = "no permission" if error.errno in (errno.EACCES, errno.EPERM) else str(error.strerror)
        raise HalError(f"{error.filename or TOPOLOGY} cannot be read: {what}") from error
    raise HalError(f"{TOPOLOGY} changed {LOOKS} times while it was read; is a card being added or reset?")
