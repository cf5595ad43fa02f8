"""A recording of our boot: a HAL that passes everything on and writes down what is done to the register BAR."""

from __future__ import annotations

import ctypes
from typing import Any, cast

from amdrv.facts import psp
from amdrv.hal import Hal, PciDevice, Region, select
from tools.boot_diff.trace import Event, command_name, name_at

__all__ = ["RecordingHal", "record"]

REGISTER_BAR = 5
VRAM_BAR = 0
_RING = ("MP0_SMN_C2PMSG_69", "MP0_SMN_C2PMSG_70", "MP0_SMN_C2PMSG_71")     # address low, high, bytes
_WPTR = "MP0_SMN_C2PMSG_67"
_FB_BASE = "MMMC_VM_FB_LOCATION_BASE"
_FB_SHIFT = 24                      # Linux 6.1, mmhub_v3_0.c, mmhub_v3_0_get_fb_location


class _Register:
    """The register BAR, written down."""

    def __init__(self, device: _Device, inner: Region) -> None:
        self._device = device
        self._inner = inner

    def read32(self, offset: int) -> int:
        value = self._inner.read32(offset)
        self._device.note(Event("R", name_at(offset // 4), value))
        return value

    def write32(self, offset: int, value: int) -> None:
        self._device.note(Event("W", name_at(offset // 4), value))
        self._inner.write32(offset, value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Device:
    """A PCI device whose register BAR is recorded; all else is the device's own."""

    def __init__(self, inner: PciDevice, events: list[Event]) -> None:
        self._inner = inner
        self._events = events
        self._latest: dict[str, int] = {}
        self._psp_wptr = 0
        self._regions: dict[int, Any] = {}

    def bar(self, index: int) -> Any:
        if index not in self._regions:
            region = self._inner.bar(index)
            self._regions[index] = _Register(self, region) if index == REGISTER_BAR else region
        return self._regions[index]

    def note(self, event: Event) -> None:
        self._latest[event.name] = event.value
        self._events.append(event)
        if event.kind == "W" and event.name == _RING[2]:
            self._psp_wptr = 0          # a ring that was just set up
        if event.kind == "W" and event.name == _WPTR:
            self._commands(event.value)

    def _commands(self, wptr: int) -> None:
        """The PSP's new ring frames, read from where the driver put them: VRAM, by its window."""
        low, high, size = (self._latest.get(name, 0) for name in _RING)
        frame_words = ctypes.sizeof(psp.psp_gfx_rb_frame) // 4
        while size and self._psp_wptr != wptr:
            frame = psp.psp_gfx_rb_frame.from_buffer_copy(
                self._vram((high << 32 | low) + 4 * self._psp_wptr, ctypes.sizeof(psp.psp_gfx_rb_frame)))
            command = psp.psp_gfx_cmd_resp.from_buffer_copy(self._vram(
                frame.cmd_buf_addr_hi << 32 | frame.cmd_buf_addr_lo, ctypes.sizeof(psp.psp_gfx_cmd_resp)))
            name = command_name(command.cmd_id)
            self._events.append(Event("PSP", name, command.cmd.cmd_load_ip_fw.fw_type if name == "LOAD_IP_FW" else 0))
            self._psp_wptr = (self._psp_wptr + frame_words) % (size // 4)

    def _vram(self, address: int, size: int) -> bytes:
        offset = address - ((self._latest.get(_FB_BASE, 0) & 0xFFFFFF) << _FB_SHIFT)
        return self._inner.bar(VRAM_BAR).view(offset, size).tobytes()

    def __enter__(self) -> _Device:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._inner.__exit__(*exc)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class RecordingHal:
    """Another HAL, with every register access in ``events``."""

    def __init__(self, inner: Hal) -> None:
        self._inner = inner
        self.events: list[Event] = []

    def open(self, address: str, *, dma_bits: int = 44) -> Any:
        return _Device(self._inner.open(address, dma_bits=dma_bits), self.events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def record(hal: str = "mock") -> list[Event]:
    """Boot the first card of a HAL and shut it down; what happened until it was up."""
    from amdrv.device import Device

    recording = RecordingHal(select(hal))
    with Device.open(hal=cast(Hal, recording)):
        return list(recording.events)
