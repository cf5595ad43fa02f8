"""The discovery table against tables packed here by hand, and against every way to damage one."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amdrv.errors import BootError, CardLostError, DiscoveryError, UnknownIpError
from amdrv.ip import discovery
from amdrv.regs import table_for

GC, NBIF, MMHUB, VCN = 11, 108, 34, 12
IPS = [(GC, 0, (11, 0, 0), [0x1260, 0xA000, 0x2402C00]), (NBIF, 0, (4, 3, 0), [0, 0x14, 0xD20]),
       (MMHUB, 0, (3, 0, 0), [0x1A000]), (VCN, 0, (4, 0, 0), [0x7800]), (VCN, 1, (4, 0, 0), [0x7E00])]
GC_1_0 = [6, 3, 1, 8, 16, 2048, 64, 32, 1792, 1024, 512, 32, 16, 32, 128, 2, 2, 2, 4]


def build(ips: list[tuple[int, int, tuple[int, int, int], list[int]]] = IPS, gc: list[int] = GC_1_0, *,
          gc_version: tuple[int, int] = (1, 0), harvest: list[tuple[int, int]] | None = None,
          version: int = 3, signature: int = 0x28211407) -> bytes:
    """A discovery binary, from discovery.h's layout, with struct alone."""
    die_at = 60 + 80
    die = struct.pack("<HH", 0, len(ips))
    for hw_id, instance, (major, minor, revision), bases in ips:
        die += struct.pack("<HBBBBBB", hw_id, instance, len(bases), major, minor, revision, 0)
        die += struct.pack(f"<{len(bases)}I", *bases)
    size = 80 + len(die)
    listing = struct.pack("<IHHIH", 0x53445049, version, size, 0, 1)
    listing += struct.pack("<HH", 0, die_at) + bytes(60) + bytes(2) + die
    gc_table = struct.pack("<IHHI", 0x4347, *gc_version, 12 + 4 * len(gc)) + struct.pack(f"<{len(gc)}I", *gc)
    parts = [listing, gc_table]
    if harvest is not None:
        entries = b"".join(struct.pack("<HBB", *entry, 0) for entry in harvest)
        parts.append(struct.pack("<II", 0x56524148, 0) + entries.ljust(128, b"\0"))
    tables, body, at = b"", b"", 60
    for part in parts:
        tables += struct.pack("<HHHH", at, sum(part) & 0xFFFF, len(part), 0)
        body += part
        at += len(part)
    rest = struct.pack("<H", 60 + len(body)) + tables.ljust(48, b"\0") + body
    return struct.pack("<IHHH", signature, 1, 2, sum(rest) & 0xFFFF) + rest


class FakeRegion:
    """A BAR of plain memory; ``size`` may say less than the card has."""

    def __init__(self, memory: np.ndarray, size: int | None = None) -> None:
        self.memory, self.size = memory, len(memory) if size is None else size

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        assert offset + size <= self.size
        return self.memory[offset:offset + size].view(dtype)

    def read32(self, offset: int) -> int:
        return int(self.memory[offset:offset + 4].view(np.uint32)[0])

    def write32(self, offset: int, value: int) -> None:
        self.memory[offset:offset + 4].view(np.uint32)[0] = value

    read64 = write64 = None


class FakeRegisters(FakeRegion):
    """The five registers that discovery reads, with the index/data pair behind MM_DATA."""

    def __init__(self, vram: np.ndarray, *, ready: int = 1 << 31, mib: int | None = None) -> None:
        super().__init__(np.zeros(1 << 20, np.uint8))
        self.vram = vram
        self.write32(4 * 0xDE3, len(vram) >> 20 if mib is None else mib)
        self.write32(4 * 0x16061, ready)

    def read32(self, offset: int) -> int:
        if offset == 4:
            index = super().read32(0)
            assert index >> 31, "MM_INDEX without bit 31 is a register's address"
            at = super().read32(4 * 6) << 31 | index & 0x7FFF_FFFF
            return int(self.vram[at:at + 4].view(np.uint32)[0])
        return super().read32(offset)


def card(binary: bytes, *, bar: int | None = None) -> tuple[FakeRegisters, FakeRegion]:
    vram = np.full(8 << 20, 0xA5, np.uint8)
    at = len(vram) - (64 << 10)
    vram[at:at + len(binary)] = np.frombuffer(binary, np.uint8)
    return FakeRegisters(vram), FakeRegion(vram, bar)


@pytest.mark.parametrize("bar", [None, 1 << 20], ids=["through BAR 0", "through MM_INDEX"])
def test_a_table_is_found_and_decoded(bar: int | None) -> None:
    found, size = discovery.read(*card(build(), bar=bar))      # type: ignore[arg-type]
    assert size == 8 << 20 and found.version == (1, 2)
    assert [(ip.name, ip.instance, ip.version, list(ip.bases)) for ip in found.ips] == [
        ("GC", 0, (11, 0, 0), [0x1260, 0xA000, 0x2402C00]), ("NBIF", 0, (4, 3, 0), [0, 0x14, 0xD20]),
        ("MMHUB", 0, (3, 0, 0), [0x1A000]), ("VCN", 0, (4, 0, 0), [0x7800]), ("VCN", 1, (4, 0, 0), [0x7E00])]
    assert (found.gc.shader_engines, found.gc.arrays_per_engine, found.gc.wgps_per_array) == (6, 2, 4)
    assert found.gc.tables["gc_lds_size"] == found.gc.lds_kib == 128
    assert "GC[0] 11.0.0" in str(found) and "0x2402c00" in str(found)


def test_harvested_blocks_are_not_found() -> None:
    found = discovery.parse(build(harvest=[(VCN, 1)]))
    assert found.find("VCN", 1) is None and found.find("VCN", 0) is not None
    assert "VCN[1] 4.0.0 (harvested)" in [str(ip) for ip in found.ips]
    with pytest.raises(DiscoveryError, match=r"names no VCN\[1\]; it has GC, MMHUB, NBIF, VCN"):
        found.require("VCN", 1)


def test_newer_gc_tables_are_read_as_the_newest_known() -> None:
    later = GC_1_0 + [8, 2, 24] + list(range(8)) + [99]
    assert discovery.parse(build(gc=later, gc_version=(1, 3))).gc.shader_engines == 6
    with pytest.raises(DiscoveryError, match=r"the GC table has 88 bytes, version 1\.2 needs 132"):
        discovery.parse(build(gc_version=(1, 2)))
    with pytest.raises(DiscoveryError, match=r"GC table version 9.0 is not known; 1.x and 2.x are"):
        discovery.parse(build(gc_version=(9, 0)))
    with pytest.raises(DiscoveryError, match="0 shader engines of 2 arrays of 4 WGPs cannot be"):
        discovery.parse(build(gc=[0] + GC_1_0[1:]))


def test_gc_table_version_2() -> None:
    gc = discovery.parse(build(gc=[4, 10, 1] + [0] * 8 + [64, 10, 32, 64, 0, 0], gc_version=(2, 0))).gc
    assert (gc.shader_engines, gc.arrays_per_engine, gc.wgps_per_array, gc.wave_size) == (4, 1, 5, 64)


def test_errors_say_what_is_wrong() -> None:
    good = build()
    with pytest.raises(DiscoveryError, match=r"signature reads 0xa5a5a5a5 and not 0x28211407; was the card init"):
        discovery.read(*card(b""))      # type: ignore[arg-type]
    with pytest.raises(DiscoveryError, match=r"the checksum is 0x.* and should be 0x.*damaged"):
        discovery.parse(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    with pytest.raises(DiscoveryError, match=r"it says it has \d+ bytes, 64 could be read"):
        discovery.parse(good[:64])
    with pytest.raises(DiscoveryError, match="RCC_CONFIG_MEMSIZE says 0x0 MiB"):
        vram = np.zeros(1 << 20, np.uint8)
        discovery.read(FakeRegisters(vram, mib=0), FakeRegion(vram))        # type: ignore[arg-type]
    with pytest.raises(CardLostError, match="all ones"):
        discovery.read(FakeRegisters(vram, mib=0xFFFF_FFFF, ready=0xFFFF_FFFF), FakeRegion(vram))  # type: ignore[arg-type]


def test_firmware_that_does_not_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "READY_TIMEOUT", 0.01)
    registers, vram = card(build())
    registers.write32(4 * 0x16061, 5)
    with pytest.raises(BootError, match=r"boot firmware of the card .*last seen: 0x5; .*power-cycle"):
        discovery.read(registers, vram)         # type: ignore[arg-type]


def test_unknown_version_is_named() -> None:
    ip = discovery.parse(build([(GC, 0, (13, 7, 1), [0])])).require("GC")
    with pytest.raises(UnknownIpError, match=r"GC 13\.7\.1"):
        table_for(ip.name, ip.version)


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, len(build(harvest=[(VCN, 1)])) - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_is_an_error_or_harmless(at: int, bit: int) -> None:
    good = build(harvest=[(VCN, 1)])
    bad = good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1:]
    try:
        found = discovery.parse(bad)
    except DiscoveryError:
        return
    assert (found.ips, found.gc) == (discovery.parse(good).ips, discovery.parse(good).gc)


@settings(max_examples=300, deadline=None)
@given(cut=st.integers(0, 600), flips=st.lists(st.tuples(st.integers(10, 500), st.integers(0, 255)), max_size=8))
def test_a_damaged_table_with_right_checksums_never_crashes(cut: int, flips: list[tuple[int, int]]) -> None:
    """The outer checksum made right again, so that the damage reaches the parser."""
    data = bytearray(build(harvest=[(VCN, 1)]))
    for at, value in flips:
        if at < len(data):
            data[at] = value
    del data[max(cut, 12):]
    data[8:10] = struct.pack("<H", sum(data[10:struct.unpack_from("<H", data, 10)[0]]) & 0xFFFF)
    with contextlib.suppress(DiscoveryError):
        discovery.parse(bytes(data))
