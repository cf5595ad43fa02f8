"""The IP discovery table: which blocks the card has, in which version, and where their registers are.

The VBIOS leaves the table 64 KiB below the end of VRAM (Linux 6.1, amdgpu_discovery.c,
amdgpu_discovery_read_binary_from_vram). It is the only thing known of a card in advance, so the five registers
needed to read it are fixed dword addresses, the same on every card since Vega (same file, mmRCC_CONFIG_MEMSIZE,
mmMM_INDEX ...).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from amdrv.errors import BootError, CardLostError, DiscoveryError, WaitTimeout
from amdrv.facts import discovery as facts
from amdrv.hal import Region
from amdrv.wait import wait_until

__all__ = ["Discovery", "GcInfo", "Ip", "parse", "read"]

# Linux 6.1, amdgpu_discovery.c; dword addresses in the register BAR
MM_INDEX, MM_DATA, MM_INDEX_HI = 0x0, 0x1, 0x6
RCC_CONFIG_MEMSIZE = 0xDE3          # MiB of VRAM
MP0_SMN_C2PMSG_33 = 0x16061         # newer kernels' amdgpu_discovery.c: bit 31 is set when the boot firmware is done
FIRMWARE_READY = 1 << 31
MM_INDEX_VRAM = 1 << 31             # MM_INDEX addresses VRAM instead of registers (amdgpu_device_mm_access)

READY_TIMEOUT = 2.0                 # the kernel allows one second after a reset
MAX_BINARY = facts.DISCOVERY_TMR_OFFSET

_NAMES = {number: name for name, number in facts.ENUMS["hw_id"].items()}     # VCN follows its old name UVD
_T = TypeVar("_T", bound=ctypes.Structure)


@dataclass(frozen=True)
class Ip:
    """One block of the card. ``bases`` are dword addresses; a register is ``bases[base_idx] + offset``."""

    name: str
    hw_id: int
    instance: int
    version: tuple[int, int, int]
    bases: tuple[int, ...]
    die: int = 0
    harvested: bool = False

    def __str__(self) -> str:
        number = ".".join(map(str, self.version))
        return f"{self.name}[{self.instance}] {number}" + (" (harvested)" if self.harvested else "")


@dataclass(frozen=True)
class GcInfo:
    """Shape of the graphics core, before harvesting (Linux 6.1, amdgpu_discovery.c, amdgpu_discovery_get_gfx_info)."""

    shader_engines: int
    arrays_per_engine: int
    wgps_per_array: int
    wave_size: int
    waves_per_simd: int
    scratch_slots_per_cu: int
    lds_kib: int
    tables: dict[str, int] = field(repr=False, compare=False, default_factory=dict)     # every field, by AMD's name


@dataclass(frozen=True)
class Discovery:
    """The parsed table."""

    ips: tuple[Ip, ...]
    gc: GcInfo
    version: tuple[int, int]        # of the binary

    def find(self, name: str, instance: int = 0) -> Ip | None:
        """The block of that name, e.g. "GC"; None where the card has none or it is harvested."""
        for ip in self.ips:
            if ip.name == name and ip.instance == instance and not ip.harvested:
                return ip
        return None

    def require(self, name: str, instance: int = 0) -> Ip:
        """:raises DiscoveryError: the card does not have this block."""
        ip = self.find(name, instance)
        if ip is None:
            seen = ", ".join(sorted({ip.name for ip in self.ips}))
            raise DiscoveryError(f"the discovery table names no {name}[{instance}]; it has {seen}")
        return ip

    def __str__(self) -> str:
        return "\n".join(f"{ip!s:28} " + " ".join(f"{base:#x}" for base in ip.bases) for ip in self.ips)


def read(registers: Region, vram: Region) -> tuple[Discovery, int]:
    """Wait for the card's own firmware, find the table and parse it.

    :param registers: BAR 5.
    :param vram: BAR 0; where it is smaller than VRAM the table is read through MM_INDEX and MM_DATA.
    :returns: the table, and the bytes of VRAM.
    :raises DiscoveryError: the table is damaged or not there.
    :raises BootError: the card's firmware does not come up.
    """
    if registers.read32(4 * RCC_CONFIG_MEMSIZE) == registers.read32(4 * MP0_SMN_C2PMSG_33) == 0xFFFF_FFFF:
        raise CardLostError("registers read as all ones: the card has fallen off the bus or is powered down; "
                            "a power cycle is the way out")
    try:
        wait_until(lambda: registers.read32(4 * MP0_SMN_C2PMSG_33) & FIRMWARE_READY, READY_TIMEOUT,
                   "boot firmware of the card (MP0_SMN_C2PMSG_33 bit 31)",
                   seen=lambda: registers.read32(4 * MP0_SMN_C2PMSG_33))
    except WaitTimeout as error:
        raise BootError(f"{error}; the card's VBIOS did not initialise it, reset or "
                        "power-cycle it") from error
    size = registers.read32(4 * RCC_CONFIG_MEMSIZE) << 20
    if size in (0, 0xFFFF_FFFF << 20):
        raise DiscoveryError(f"RCC_CONFIG_MEMSIZE says {size >> 20:#x} MiB of VRAM: the card is not initialised")
    start = size - facts.DISCOVERY_TMR_OFFSET

    def fetch(nbytes: int) -> bytes:
        if vram.size >= start + nbytes:
            return vram.view(start, nbytes).tobytes()
        return _through_index(registers, start, nbytes)

    header = _struct(facts.binary_header, fetch(ctypes.sizeof(facts.binary_header)), 0, "header")
    return parse(fetch(min(max(header.binary_size, 64), MAX_BINARY))), size


def _through_index(registers: Region, start: int, nbytes: int) -> bytes:
    """Bytes of VRAM by the index/data pair (Linux 6.1, amdgpu_device.c, amdgpu_device_mm_access)."""
    words = []
    for address in range(start, start + nbytes, 4):
        registers.write32(4 * MM_INDEX_HI, address >> 31)
        registers.write32(4 * MM_INDEX, address & 0x7FFF_FFFF | MM_INDEX_VRAM)
        words.append(registers.read32(4 * MM_DATA))
    return b"".join(word.to_bytes(4, "little") for word in words)[:nbytes]


def parse(binary: bytes) -> Discovery:
    """Check and decode a discovery binary.

    :raises DiscoveryError: a signature, checksum, offset or size that cannot be.
    """
    header = _struct(facts.binary_header, binary, 0, "binary header")
    if header.binary_signature != facts.BINARY_SIGNATURE:
        raise DiscoveryError(f"no discovery table: its signature reads {header.binary_signature:#x} and not "
                             f"{facts.BINARY_SIGNATURE:#x}; was the card initialised by its VBIOS?")
    body = facts.binary_header.binary_checksum.offset + 2
    if not body < header.binary_size <= len(binary):
        raise DiscoveryError(f"discovery table: it says it has {header.binary_size} bytes, {len(binary)} could be read")
    _check_sum("discovery table", binary[body:header.binary_size], header.binary_checksum)
    binary = binary[:header.binary_size]

    harvested = _harvest_list(binary, header.table_list[facts.HARVEST_INFO])
    ips = _ip_list(binary, header.table_list[facts.IP_DISCOVERY], harvested)
    gc = _gc_info(binary, header.table_list[facts.GC])
    return Discovery(tuple(ips), gc, (header.version_major, header.version_minor))


def _ip_list(binary: bytes, info: facts.table_info, harvested: set[tuple[int, int]]) -> list[Ip]:
    header = _struct(facts.ip_discovery_header, binary, info.offset, "IP list")
    if header.signature != facts.DISCOVERY_TABLE_SIGNATURE:
        raise DiscoveryError(f"discovery table: the IP list's signature is {header.signature:#x}, not "
                             f"{facts.DISCOVERY_TABLE_SIGNATURE:#x}")
    _check_sum("IP list", _slice(binary, info.offset, header.size, "IP list"), info.checksum)
    if not 0 < header.num_dies <= len(header.die_info):
        raise DiscoveryError(f"discovery table: {header.num_dies} dies cannot be")
    wide = header.version >= 4 and header.padding[0] & 1        # 64-bit base addresses
    ips = []
    for number in range(header.num_dies):
        at = header.die_info[number].die_offset
        die = _struct(facts.die_header, binary, at, f"die {number}")
        if die.die_id != number:
            raise DiscoveryError(f"discovery table: die {number} calls itself {die.die_id}")
        at += ctypes.sizeof(facts.die_header)
        for index in range(die.num_ips):
            what = f"entry {index} of die {number}"
            entry = _struct(facts.ip, binary, at, what)
            at += ctypes.sizeof(facts.ip)
            width = 8 if wide else 4
            raw = _slice(binary, at, entry.num_base_address * width, what)
            bases = tuple(int.from_bytes(raw[i:i + width], "little") for i in range(0, len(raw), width))
            at += len(raw)
            # before version 3 the entry itself says that it is harvested; from 3 on these bits mean a sub-revision
            gone = (entry.hw_id, entry.number_instance) in harvested or bool(header.version < 3 and entry.harvest)
            ips.append(Ip(_NAMES.get(entry.hw_id, f"HWID_{entry.hw_id}"), entry.hw_id, entry.number_instance,
                          (entry.major, entry.minor, entry.revision), bases, number, gone))
    return ips


def _harvest_list(binary: bytes, info: facts.table_info) -> set[tuple[int, int]]:
    """(hw_id, instance) of the blocks that are fused off; optional table."""
    if not info.offset:
        return set()
    table = _struct(facts.harvest_table, binary, info.offset, "harvest table")
    if table.header.signature != facts.HARVEST_TABLE_SIGNATURE:
        raise DiscoveryError(f"discovery table: the harvest table's signature is {table.header.signature:#x}, not "
                             f"{facts.HARVEST_TABLE_SIGNATURE:#x}")
    _check_sum("harvest table", _slice(binary, info.offset, ctypes.sizeof(table), "harvest table"), info.checksum)
    found = set()
    for entry in table.list:
        if entry.hw_id == 0:
            break
        found.add((entry.hw_id, entry.number_instance))
    return found


def _gc_info(binary: bytes, info: facts.table_info) -> GcInfo:
    header = _struct(facts.gpu_info_header, binary, info.offset, "GC table")
    if not info.offset or header.table_id != facts.GC_TABLE_ID:
        raise DiscoveryError(f"discovery table: the GC table's id is {header.table_id:#x}, not {facts.GC_TABLE_ID:#x}")
    _check_sum("GC table", _slice(binary, info.offset, header.size, "GC table"), info.checksum)
    layouts: dict[int, list[type[ctypes.Structure]]] = {1: [facts.gc_info_v1_0, facts.gc_info_v1_1, facts.gc_info_v1_2],
                                                       2: [facts.gc_info_v2_0]}
    known = layouts.get(header.version_major)
    if known is None:
        raise DiscoveryError(f"discovery table: GC table version {header.version_major}.{header.version_minor} is not "
                             "known; 1.x and 2.x are")
    # minor versions only append: a newer one is read as the newest that is known
    layout = known[min(header.version_minor, len(known) - 1)]
    if header.size < ctypes.sizeof(layout):
        raise DiscoveryError(f"discovery table: the GC table has {header.size} bytes, version {header.version_major}."
                             f"{header.version_minor} needs {ctypes.sizeof(layout)}")
    table = _struct(layout, binary, info.offset, "GC table")
    names = [str(name) for name, *_ in layout._fields_ if name != "header"]
    values = {name: int(getattr(table, name)) for name in names}
    if header.version_major == 1:
        arrays, wgps = values["gc_num_sa_per_se"], values["gc_num_wgp0_per_sa"] + values["gc_num_wgp1_per_sa"]
    else:
        arrays, wgps = values["gc_num_sh_per_se"], values["gc_num_cu_per_sh"] // 2
    shape = values["gc_num_se"], arrays, wgps
    if not all(0 < number <= 64 for number in shape):
        raise DiscoveryError(f"discovery table: {shape[0]} shader engines of {shape[1]} arrays of {shape[2]} WGPs "
                             "cannot be")
    return GcInfo(*shape, values["gc_wave_size"], values["gc_max_waves_per_simd"],
                  values["gc_max_scratch_slots_per_cu"], values["gc_lds_size"], values)


def _slice(binary: bytes, offset: int, nbytes: int, what: str) -> bytes:
    if offset + nbytes > len(binary):
        raise DiscoveryError(f"discovery table: {what} at {offset:#x} + {nbytes:#x} lies outside its {len(binary):#x} "
                             "bytes")
    return binary[offset:offset + nbytes]


def _struct(layout: Callable[..., _T], binary: bytes, offset: int, what: str) -> _T:
    size = ctypes.sizeof(layout)            # type: ignore[arg-type]
    return layout.from_buffer_copy(_slice(binary, offset, size, what))      # type: ignore[attr-defined]


def _check_sum(what: str, data: bytes, expected: int) -> None:
    got = sum(data) & 0xFFFF
    if got != expected:
        raise DiscoveryError(f"{what}: the checksum is {got:#06x} and should be {expected:#06x}; the table in VRAM is "
                             "damaged")
