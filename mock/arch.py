"""What a card of an architecture is: PCI identity, IP blocks with versions and base addresses, shader geometry.

The figures are those of ``amdrv.facts.navi31``, where their sources stand.
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
    gc_info: dict[str, int] = field(default_factory=dict, compare=False, hash=False)
    """Fields of the discovery table's gc_info."""
    mall_bytes: int = 0             # of the Infinity Cache

    @property
    def compute_units(self) -> int:
        """Of a full board; a WGP is two compute units."""
        return 2 * self.shader_engines * self.arrays_per_engine * self.wgps_per_array

    def ip(self, name: str) -> Ip:
        for ip in self.ips:
            if ip.name == name:
                return ip
        raise KeyError(f"{self.name} has no IP {name!r}; it has {', '.join(ip.name for ip in self.ips)}")


_TABLES = {"GC": "gc_11_0_0", "SDMA0": "gc_11_0_0", "SDMA1": "gc_11_0_0", "MMHUB": "mmhub_3_0_0",
           "ATHUB": "athub_3_0_0", "OSSSYS": "osssys_6_0_0", "HDP": "hdp_6_0_0", "NBIF": "nbio_4_3_0",
           "MP0": "mp_13_0_0", "MP1": "mp_13_0_0", "THM": "thm_13_0_2", "SMUIO": "smuio_13_0_6"}


@cache
def _archs() -> dict[str, Arch]:
    from amdrv.facts import discovery, navi31
    ips = tuple(Ip(name, discovery.ENUMS["hw_id"][name], version, bases, _TABLES.get(name), instance)
                for name, instance, version, bases in navi31.IPS)
    info = navi31.GC_INFO
    return {navi31.ARCH: Arch(
        name=navi31.ARCH, marketing_name=navi31.MARKETING_NAME, vendor=navi31.VENDOR_ID, device=navi31.DEVICE_ID,
        revision=navi31.REVISION_ID, subsystem=(navi31.VENDOR_ID, 0x0E3B), class_code=0x030000, ips=ips, gc_info=info,
        shader_engines=info["gc_num_se"], arrays_per_engine=info["gc_num_sa_per_se"],
        wgps_per_array=info["gc_num_wgp0_per_sa"] + info["gc_num_wgp1_per_sa"],
        rbs_per_engine=info["gc_num_rb_per_se"], mall_bytes=navi31.MALL_BYTES)}


def known_archs() -> list[str]:
    return sorted(_archs())


def arch_of(name: str) -> Arch:
    """:raises ValueError: an architecture that the mock has no board for."""
    try:
        return _archs()[name]
    except KeyError:
        raise ValueError(f"the mock has no board {name!r}; it has {', '.join(known_archs())}") from None
