"""The IP discovery table: what the card says about itself, 64 KiB below the end of video memory.

Layout: Linux 6.1, discovery.h; place: amdgpu_discovery.c, amdgpu_discovery_read_binary_from_mem.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from amdrv.facts import discovery as facts
from mock.arch import arch_of

if TYPE_CHECKING:
    from mock.machine import Gpu

__all__ = ["TABLE_SIZE", "build", "offset"]

TABLE_SIZE = facts.DISCOVERY_TMR_SIZE


def offset(vram_bytes: int) -> int:
    """Where in video memory the table lies."""
    return vram_bytes - facts.DISCOVERY_TMR_OFFSET


def _ip_discovery(gpu: Gpu) -> bytes:
    arch = arch_of(gpu.arch)
    header_size = ctypes.sizeof(facts.ip_discovery_header)
    body = bytes(facts.die_header(die_id=0, num_ips=len(arch.ips)))
    for ip in arch.ips:
        entry = facts.ip_v3(hw_id=ip.hwid, instance_number=ip.instance, num_base_address=len(ip.bases),
                            major=ip.version[0], minor=ip.version[1], revision=ip.version[2])
        fixed = ctypes.sizeof(facts.ip_v3) - 4      # the structure ends in the first of its base addresses
        body += bytes(entry)[:fixed] + b"".join(base.to_bytes(4, "little") for base in ip.bases)
    header = facts.ip_discovery_header(signature=facts.DISCOVERY_TABLE_SIGNATURE, version=3,
                                       size=header_size + len(body), id=0, num_dies=1)
    return bytes(header) + body


def _gc_info(gpu: Gpu) -> bytes:
    arch = arch_of(gpu.arch)
    info = facts.gc_info_v1_2()
    for name, value in arch.gc_info.items():
        setattr(info, name, value)
    info.header.table_id, info.header.version_major, info.header.version_minor = facts.GC_TABLE_ID, 1, 2
    info.header.size = ctypes.sizeof(info)
    return bytes(info)


def _harvest(gpu: Gpu) -> bytes:
    """Whole IP instances that are fused off: none on this card. Workgroup processors are told of by GC's
    CC_GC_SHADER_ARRAY_CONFIG, not here."""
    table = facts.harvest_table()
    table.header.signature, table.header.version = facts.HARVEST_TABLE_SIGNATURE, 0
    return bytes(table)


def _mall(gpu: Gpu) -> bytes:
    """The Infinity Cache, all of it behind the one memory controller that the table has."""
    table = facts.mall_info_v1_0(mall_size_per_m=arch_of(gpu.arch).mall_bytes)
    table.header.table_id, table.header.version_major = facts.MALL_INFO_TABLE_ID, 1
    table.header.size_bytes = ctypes.sizeof(table)
    return bytes(table)


def build(gpu: Gpu) -> bytes:
    """The whole binary for a card, with both checksums right."""
    start = ctypes.sizeof(facts.binary_header)
    ips = bytearray(_ip_discovery(gpu))
    die = facts.ip_discovery_header.from_buffer(ips)
    die.die_info[0].die_offset = start + ctypes.sizeof(facts.ip_discovery_header)
    del die
    header = facts.binary_header(binary_signature=facts.BINARY_SIGNATURE, version_major=1, version_minor=0)
    body = b""
    for number, table in ((facts.IP_DISCOVERY, bytes(ips)), (facts.GC, _gc_info(gpu)),
                          (facts.HARVEST_INFO, _harvest(gpu)), (facts.MALL_INFO, _mall(gpu))):
        entry = header.table_list[number]
        entry.offset, entry.size, entry.checksum = start + len(body), len(table), sum(table) & 0xFFFF
        body += table
    header.binary_size = start + len(body)
    whole = bytes(header) + body
    checked_from = facts.binary_header.binary_size.offset       # the checksum covers what follows it
    header.binary_checksum = sum(whole[checked_from:]) & 0xFFFF
    return bytes(header) + body
