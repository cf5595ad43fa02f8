"""What a card of an architecture is: PCI identity, IP blocks with versions and base addresses, shader geometry.

No ``*_ip_offset.h`` was published for Navi 31; its base addresses equal those of Linux 6.1,
``sienna_cichlid_ip_offset.h`` in every block that a driver's boot touches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

__all__ = ["Arch", "Ip", "arch_of", "known_archs"]


@dataclass(frozen=True)
class Ip:
    """An entry of the discovery table."""

    name: str                       # as in Linux 6.1, amdgpu_discovery.c, hw_id_names
    hwid: int                       # Linux 6.1, soc15_hw_ip.h
    version: tuple[int, int, int]
    bases: tuple[int, ...]          # dwords
    table: str | None = None        # name of the register table, where the mock has registers
    instance: int = 0


@dataclass(frozen=True)
class Arch:
    name: str
    marketing_name: str
    vendor: int
    device: int
    revision: int
    subsystem: tuple[int, int]
    class_code: int
    ips: tuple[Ip, ...]
    shader_engines: int
    arrays_per_engine: int
    wgps_per_array: int
    rbs_per_engine: int
    harvested: dict[str, int] = field(default_factory=dict, compare=False, hash=False)
    """IP name -> instances fused off on every board."""

    @property
    def compute_units(self) -> int:
        """Of a full board; a WGP is two compute units."""
        return 2 * self.shader_engines * self.arrays_per_engine * self.wgps_per_array

    def ip(self, name: str) -> Ip:
        for ip in self.ips:
            if ip.name == name:
                return ip
        raise KeyError(f"{self.name} has no IP {name!r}; it has {', '.join(ip.name for ip in self.ips)}")


_GC = (0x1260, 0xA000, 0x1C000, 0x2402C00)
_MP = (0x16000, 0xDC0000, 0xE00000, 0xE40000, 0x243FC00)

# Linux 6.1, sienna_cichlid_ip_offset.h (bases), soc15_hw_ip.h (ids); versions: amdgpu_discovery.c and the file names
# of include/asic_reg. NBIF has a sixth segment in Linux 6.1, nbio_4_3_0_offset.h, at 0x4040000.
_NAVI31 = (
    Ip("MP0", 255, (13, 0, 0), _MP, "mp_13_0_0"),
    Ip("MP1", 1, (13, 0, 0), _MP, "mp_13_0_0"),
    Ip("NBIF", 108, (4, 3, 0), (0x0, 0x14, 0xD20, 0x10400, 0x241B000, 0x4040000), "nbio_4_3_0"),
    Ip("GC", 11, (11, 0, 0), _GC, "gc_11_0_0"),
    Ip("SDMA0", 42, (6, 0, 0), _GC, "gc_11_0_0"),
    Ip("SDMA1", 43, (6, 0, 0), _GC, "gc_11_0_0"),
    Ip("MMHUB", 34, (3, 0, 0), (0x1A000, 0x2408800), "mmhub_3_0_0"),
    Ip("ATHUB", 35, (3, 0, 0), (0xC00, 0x2408C00), "athub_3_0_0"),
    Ip("OSSSYS", 40, (6, 0, 0), (0x10A0, 0x240A000), "osssys_6_0_0"),
    Ip("HDP", 41, (6, 0, 0), (0xF20, 0x240A400), "hdp_6_0_0"),
    Ip("SMUIO", 4, (13, 0, 6), (0x16800, 0x16A00, 0x440000, 0x2401000), "smuio_13_0_6"),
    Ip("THM", 3, (13, 0, 0), (0x16600, 0x2400C00), "thm_13_0_2"),
    Ip("CLKA", 6, (8, 0, 0), (0x16C00, 0x2401800)),
    Ip("DF", 46, (4, 4, 0), (0x7000, 0x240B800)),
    Ip("UMC", 150, (8, 10, 0), (0x14000, 0x2425800)),
    Ip("UVD", 12, (4, 0, 0), (0x7800, 0x7E00, 0x2403000)),
    Ip("UVD", 12, (4, 0, 0), (0x7B00, 0x12000, 0x2445000), instance=1),
)


@cache
def _archs() -> dict[str, Arch]:
    return {"gfx1100": Arch(
        name="gfx1100", marketing_name="Radeon RX 7900 XTX", vendor=0x1002, device=0x744C, revision=0xC8,
        subsystem=(0x1002, 0x0E3B), class_code=0x030000, ips=_NAVI31,
        shader_engines=6, arrays_per_engine=2, wgps_per_array=4, rbs_per_engine=4)}


def known_archs() -> list[str]:
    return sorted(_archs())


def arch_of(name: str) -> Arch:
    """:raises ValueError: an architecture that the mock has no board for."""
    try:
        return _archs()[name]
    except KeyError:
        raise ValueError(f"the mock has no board {name!r}; it has {', '.join(known_archs())}") from None
