"""What every HAL must do, as one test class. A HAL's test module inherits it and provides ``hal``.

    class TestMock(HalContract):
        @pytest.fixture
        def hal(self): ...

The tests use nothing but the contract; ``poke_dma`` and ``raise_interrupt`` are how the machine below is asked to
touch host memory and to interrupt, since the contract has no such door.
"""

from __future__ import annotations

import itertools
import select
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import pytest

from amdrv.errors import CardBusyError, HalError, MappingError, NoCardError
from amdrv.hal import AMD_VENDOR_ID, Hal, PciDevice

COMMAND, COMMAND_MEMORY, COMMAND_MASTER = 0x04, 1 << 1, 1 << 2


class HalContract:
    """Inherit, provide ``hal``, ``poke_dma`` and ``raise_interrupt``."""

    has_interrupt = True        # False: this HAL has none, and the IH ring is polled

    @abstractmethod
    def poke_dma(self, hal: Hal, device: PciDevice, address: int, data: bytes) -> None:
        """Have the card write ``data`` at a device address."""

    @abstractmethod
    def raise_interrupt(self, hal: Hal, device: PciDevice) -> None:
        """Have the card raise one interrupt."""

    @pytest.fixture
    def device(self, hal: Hal) -> Iterator[PciDevice]:
        with hal.open(hal.functions(AMD_VENDOR_ID)[0].address) as device:
            yield device

    # -- enumeration and ownership

    def test_functions_are_filtered_by_vendor(self, hal: Hal) -> None:
        cards = hal.functions(AMD_VENDOR_ID)
        assert cards and all(f.vendor == AMD_VENDOR_ID and f.is_display for f in cards)
        assert len({f.address for f in cards}) == len(cards)
        assert hal.functions(0xFFFE) == []
        assert set(cards) <= set(hal.functions())

    def test_unknown_address(self, hal: Hal) -> None:
        with pytest.raises(NoCardError, match=r"ffff:ff:1f\.7"):
            hal.open("ffff:ff:1f.7")

    def test_a_card_is_held_once(self, hal: Hal, device: PciDevice) -> None:
        with pytest.raises(CardBusyError, match=device.function.address):
            hal.open(device.function.address)

    def test_close_gives_the_card_back(self, hal: Hal) -> None:
        address = hal.functions(AMD_VENDOR_ID)[0].address
        for _ in range(3):
            device = hal.open(address)
            device.close()
            device.close()
        with pytest.raises(HalError, match="closed"):
            device.alloc_dma(4096)

    def test_what_was_kept_of_a_closed_card_is_an_error(self, hal: Hal) -> None:
        device = hal.open(hal.functions(AMD_VENDOR_ID)[0].address)
        registers, vram = device.bar(5), device.bar(0)
        registers.read32(0)
        device.close()
        for access in (lambda: registers.read32(0), lambda: registers.write32(0, 1), lambda: vram.read64(8),
                       lambda: vram.view(0, 16)):
            with pytest.raises(HalError, match="closed"):
                access()

    def test_open_decodes_memory_but_masters_nothing(self, device: PciDevice) -> None:
        command = device.config.read(COMMAND, 2)
        assert command & COMMAND_MEMORY and not command & COMMAND_MASTER

    # -- config space

    def test_config_matches_enumeration(self, device: PciDevice) -> None:
        assert device.config.read(0, 2) == device.function.vendor
        assert device.config.read(2, 2) == device.function.device
        assert device.config.read(0, 4) == device.function.vendor | device.function.device << 16
        assert device.config.read(1, 1) == device.function.vendor >> 8

    @pytest.mark.parametrize(("offset", "width"), [(1, 2), (2, 4), (0, 3), (4096, 1), (-4, 4)])
    def test_bad_config_access(self, device: PciDevice, offset: int, width: int) -> None:
        with pytest.raises(HalError, match="aligned"):
            device.config.read(offset, width)

    def test_capabilities_are_found(self, device: PciDevice) -> None:
        express = device.config.capability(0x10)
        assert express is not None and device.config.read(express, 1) == 0x10
        assert device.config.capability(0xEE) is None
        assert device.config.extended_capability(0xEEE) is None

    # -- BARs

    def test_vram_is_memory(self, device: PciDevice) -> None:
        vram = device.bar(0)
        view = vram.view(0x10000, 64, np.uint64)
        view[:] = np.arange(8, dtype=np.uint64) * 0x0101_0101_0101
        assert np.array_equal(vram.view(0x10000, 64, np.uint64), np.arange(8, dtype=np.uint64) * 0x0101_0101_0101)
        vram.write32(0x10000, 0xDEADBEEF)
        vram.write64(0x10008, 0x1122334455667788)
        assert (vram.read32(0x10000), vram.read64(0x10008)) == (0xDEADBEEF, 0x1122334455667788)
        assert int(view[1]) == 0x1122334455667788

    @pytest.mark.parametrize("index", [2, 5])
    def test_registers_have_no_view(self, device: PciDevice, index: int) -> None:
        with pytest.raises(HalError, match="no view"):
            device.bar(index).view(0, 4)

    @pytest.mark.parametrize(("offset", "width"), [(2, 4), (4, 8), (-4, 4)])
    def test_misaligned_access(self, device: PciDevice, offset: int, width: int) -> None:
        with pytest.raises(HalError, match="aligned"):
            (device.bar(5).read32 if width == 4 else device.bar(5).read64)(offset)

    def test_beyond_the_bar(self, device: PciDevice) -> None:
        with pytest.raises(HalError):
            device.bar(5).write32(device.bar(5).size, 0)
        with pytest.raises(HalError, match="does not fit"):
            device.bar(0).view(device.bar(0).size - 4, 8)

    def test_missing_bar(self, device: PciDevice) -> None:
        missing = next(i for i in range(6) if i not in device.bar_sizes())
        with pytest.raises(MappingError, match=f"BAR{missing}"):
            device.bar(missing)

    # -- DMA memory

    @pytest.mark.parametrize("size", [1, 4096, 3 << 20])
    @pytest.mark.parametrize("contiguous", [False, True])
    def test_dma_memory_is_reached_through_its_segments(self, hal: Hal, device: PciDevice, size: int,
                                                        contiguous: bool) -> None:
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        buffer = device.alloc_dma(size, contiguous=contiguous)
        assert buffer.size >= size and buffer.size % device.page_size == 0 and buffer.view.nbytes == buffer.size
        assert not buffer.view.any()
        assert sum(n for _, n in buffer.segments) == buffer.size
        assert all(a % 4096 == 0 and n % 4096 == 0 for a, n in buffer.segments)
        assert len(buffer.segments) == 1 or not contiguous
        at = 0
        for index, (address, length) in enumerate(buffer.segments):
            self.poke_dma(hal, device, address + length - 8, index.to_bytes(8, "little"))
            at += length
            assert int(buffer.view[at - 8:at].view(np.uint64)[0]) == index
        buffer.close()
        buffer.close()

    def test_segments_do_not_overlap(self, device: PciDevice) -> None:
        buffers = [device.alloc_dma(n) for n in (4096, 1 << 20, 5 << 20)]
        spans = sorted(s for b in buffers for s in b.segments)
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans))
        assert all(a + n <= 1 << 44 for a, n in spans)

    def test_existing_memory_can_be_mapped(self, hal: Hal, device: PciDevice) -> None:
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        page = device.page_size
        raw = np.zeros(3 * page, dtype=np.uint8)
        skip = -int(raw.ctypes.data) % page
        memory = raw[skip:skip + 2 * page]
        with device.map_dma(memory, 2 * page) as mapping:       # type: ignore[attr-defined]
            self.poke_dma(hal, device, mapping.segments[0][0], b"from the card")
            assert memory[:13].tobytes() == b"from the card"
            assert int(mapping.view.ctypes.data) == int(memory.ctypes.data)

    def test_memory_of_a_device_can_be_mapped_again(self, hal: Hal, device: PciDevice) -> None:
        """What alloc_dma gave, as another device of the machine would map it."""
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        page = device.page_size
        with device.alloc_dma(2 * page) as buffer:              # type: ignore[attr-defined]
            with device.map_dma(buffer, 2 * page) as mapping:   # type: ignore[attr-defined]
                self.poke_dma(hal, device, mapping.segments[0][0], b"by the second way")
                assert buffer.view[:17].tobytes() == mapping.view[:17].tobytes() == b"by the second way"
            self.poke_dma(hal, device, buffer.segments[0][0], b"the first")
            assert buffer.view[:9].tobytes() == b"the first"    # which the other's end has left alone
            with pytest.raises(MappingError, match="array of"):
                device.map_dma(buffer, 3 * page)
        gone = type("Gone", (), {"view": None, "size": page, "segments": ()})()
        with pytest.raises(MappingError, match="a peer's BAR is mapped by map_peer"):
            device.map_dma(gone, page)

    def test_bad_mappings(self, device: PciDevice) -> None:
        raw = np.zeros(4 * device.page_size, dtype=np.uint8)
        aligned = raw[-int(raw.ctypes.data) % device.page_size:]
        with pytest.raises(MappingError, match="page size"):
            device.map_dma(aligned[1:], device.page_size)
        with pytest.raises(MappingError, match="page size"):
            device.map_dma(aligned, 100)
        with pytest.raises(MappingError, match="array of"):
            device.map_dma(aligned[:device.page_size], 2 * device.page_size)
        with pytest.raises(MappingError, match="positive"):
            device.alloc_dma(0)

    # -- interrupts

    def test_interrupts_are_counted_and_selectable(self, hal: Hal, device: PciDevice) -> None:
        interrupt = device.interrupt()
        assert (interrupt is not None) == self.has_interrupt
        if interrupt is None:
            return
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        assert interrupt.wait(0) == 0
        assert select.select([interrupt.fileno()], [], [], 0)[0] == []
        for _ in range(3):
            self.raise_interrupt(hal, device)
        assert select.select([interrupt.fileno()], [], [], 5)[0]
        total = 0
        while (count := interrupt.wait(0.2)):
            total += count
        assert total == 3
        assert select.select([interrupt.fileno()], [], [], 0)[0] == []

    def test_fence_and_reset(self, device: PciDevice) -> None:
        device.fence()
        device.reset()
        assert device.config.read(0, 2) == device.function.vendor
